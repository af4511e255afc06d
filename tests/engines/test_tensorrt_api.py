"""The part of the TensorRT API that we use: that the list of it is complete, and that the installed library has it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.backends import tensorrt

# Class -> members; "" is the module. docs/engines.md has the same names and says what they are for.
COMMON = {
    "": ["__version__", "float32"],
    "Builder": [
        "build_serialized_network",
        "create_builder_config",
        "create_network",
        "create_optimization_profile",
        "num_DLA_cores",
    ],
    "BuilderFlag": ["GPU_FALLBACK", "TF32"],
    "DeviceType": ["DLA"],
    "ExecutionContextAllocationStrategy": ["USER_MANAGED"],
    "IBuilderConfig": [
        "DLA_core",
        "add_optimization_profile",
        "clear_flag",
        "create_timing_cache",
        "default_device_type",
        "get_timing_cache",
        "set_flag",
        "set_memory_pool_limit",
        "set_timing_cache",
    ],
    "ICudaEngine": [
        "create_execution_context",
        "device_memory_size_v2",
        "get_tensor_dtype",
        "get_tensor_mode",
        "get_tensor_name",
        "get_tensor_profile_shape",
        "get_tensor_shape",
        "num_io_tensors",
        "num_optimization_profiles",
    ],
    "IExecutionContext": [
        "execute_async_v3",
        "get_tensor_shape",
        "set_device_memory",
        "set_input_shape",
        "set_optimization_profile_async",
        "set_tensor_address",
    ],
    "ILogger": ["log"],
    "ILogger.Severity": ["ERROR", "INTERNAL_ERROR", "WARNING"],
    "INetworkDefinition": ["get_input", "get_output", "num_inputs", "num_outputs"],
    "IOptimizationProfile": ["set_shape"],
    "ITimingCache": ["serialize"],
    "MemoryPoolType": ["WORKSPACE"],
    "NetworkDefinitionCreationFlag": ["STRONGLY_TYPED"],
    "OnnxParser": ["get_error", "num_errors", "parse"],
    "ParserError": ["code", "desc", "node_name", "node_operator"],
    "Runtime": ["DLA_core", "deserialize_cuda_engine"],
    "TensorIOMode": ["INPUT"],
}

# Of TensorRT-RTX alone, which compiles kernels when an engine runs.
RTX_ONLY = {
    "BuilderFlag": ["REQUIRE_USER_ALLOCATION"],
    "ComputeCapability": ["SM80", "SM86", "SM89", "SM120"],
    "CudaGraphStrategy": ["DISABLED"],
    "DynamicShapesKernelSpecializationStrategy": ["EAGER"],
    "IBuilderConfig": ["num_compute_capabilities", "set_compute_capability"],
    "ICudaEngine": ["create_runtime_config"],
    "IExecutionContext": ["is_stream_capturable"],
    "IRuntimeCache": ["deserialize", "serialize"],
    "IRuntimeConfig": [
        "create_runtime_cache",
        "cuda_graph_strategy",
        "dynamic_shapes_kernel_specialization_strategy",
        "set_execution_context_allocation_strategy",
        "set_runtime_cache",
    ],
}


def names(*lists: dict[str, list[str]]) -> Iterator[str]:
    for members in lists:
        for cls, listed in members.items():
            yield from (f"{cls}.{member}".removeprefix(".") for member in listed)


def lacking(library, *lists):
    def there(name):
        found = library
        for part in name.split("."):
            found = getattr(found, part, None)
        return found is not None

    return [name for name in names(*lists) if not there(name)]


def test_the_installed_tensorrt_rtx_has_all_of_it():
    library = pytest.importorskip("tensorrt_rtx", reason="the TensorRT-RTX extra is not installed")
    assert lacking(library, COMMON, RTX_ONLY) == []


def test_the_installed_tensorrt_has_the_common_part():
    library = pytest.importorskip("tensorrt", reason="the TensorRT extra is not installed")
    assert lacking(library, COMMON) == []


def test_the_list_is_complete():
    """Every attribute of the library, and every method or property that is not somebody else's, is in the list."""
    library = pytest.importorskip("tensorrt_rtx", reason="the TensorRT-RTX extra is not installed")
    listed = {part for name in names(COMMON, RTX_ONLY) for part in name.split(".")}
    members = {
        member
        for cls in vars(library).values()
        if isinstance(cls, type)
        for member in vars(cls)
        if "_" in member.strip("_")  # the others are words that anything may be called
    }
    used = set()
    for path in Path(tensorrt.__file__).parent.glob("tensorrt*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Attribute):
                continue
            of_library = isinstance(node.value, ast.Name) and node.value.id == "library"
            if (of_library and node.attr != "__name__") or node.attr in members:
                used.add(node.attr)
    assert len(used) > 40
    assert used <= listed, f"not in the list: {sorted(used - listed)}"


def test_the_documentation_names_all_of_it():
    page = Path(__file__).parents[2] / "docs" / "engines.md"
    if not page.is_file():
        pytest.skip("docs/engines.md is not there")
    text = page.read_text()
    assert [name for name in names(COMMON, RTX_ONLY) if f"`{name}`" not in text] == []
