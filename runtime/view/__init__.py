"""The live page and the metrics of a node: a bounded, droppable view that reads what the node publishes.

:mod:`~runtime.view.state` keeps the latest of everything as a function of (messages, now); :mod:`~runtime.view.feed`
is the one thread that reads the node; :mod:`~runtime.view.panes` turns observations into small pictures and lines;
:mod:`~runtime.view.updates` makes the messages for browsers; :mod:`~runtime.view.metrics` the Prometheus text;
:mod:`~runtime.view.server` the web server, which needs the ``view`` extra.
"""
