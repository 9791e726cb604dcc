"""What the target of a step leads to."""

from __future__ import annotations

from collections.abc import Iterable

from pikku_gen.link.functions import function_named
from pikku_gen.link.shapes import Shapes
from pikku_gen.model.app import App, FunctionModel, RpcModel
from pikku_gen.model.facts import StepFact, TargetFact


class Targets:
    """The RPCs and workflows of a project, by every way of naming one."""

    def __init__(self, app: App, shapes: Shapes) -> None:
        self._table = shapes.table
        self.names = {rpc.name: rpc for rpc in app.rpcs}
        self.attributes = {rpc.attribute: rpc for rpc in app.rpcs}
        self.workflow_names = {flow.name: flow for flow in app.workflows}
        self.workflow_attributes = {flow.attribute: flow for flow in app.workflows}
        self.queue_names = {queue.name: queue for queue in reversed(app.queues)}
        self.queue_attributes = {queue.attribute: queue for queue in reversed(app.queues)}
        self._rpcs = {rpc.function.key: rpc for rpc in app.rpcs}
        self.signal_names = {signal.name: signal for signal in app.signals}
        self.signal_attributes = {signal.attribute: signal for signal in app.signals}
        self._functions = {rpc.function.key: rpc.function for rpc in app.rpcs}
        self._functions |= {function.key: function for function in app.bodies}
        self._wired = {flow.function.key for flow in app.workflows}

    def target_names(self, step: StepFact) -> list[str]:
        """The strings that a step may name its target by; a saga's are functions only."""
        return [*self.names, *(() if step.kind == "saga.do" else self.workflow_names)]

    def names_target(self, step: StepFact, name: str) -> bool:
        """True for a string that leads to something the step can run."""
        return name in self.names or (step.kind != "saga.do" and name in self.workflow_names)

    def function(self, module: str, dotted: str) -> FunctionModel | None:
        """The decorated function that a dotted name leads to."""
        return function_named(self._table, self._functions, module, dotted)

    def is_unbound(self, module: str, dotted: str) -> bool:
        """True for a name that nothing in its module binds, as far as all of it is known."""
        symbols = self._table.symbols(module)
        if symbols is None or not all(map(self._table.is_module, symbols.stars)):
            return False
        return self._table.resolve(module, dotted.partition(".")[0]) is None and (
            dotted.partition(".")[0] not in symbols.bindings
        )

    def bound(self, module: str) -> Iterable[str]:
        """The names a module binds."""
        return self._table.names(module)

    def is_wired(self, function: FunctionModel) -> bool:
        """True for a workflow that can be started by a name."""
        return function.key in self._wired

    def of_queue(self, words: str) -> RpcModel | None:
        """The function that does the jobs of a queue: `queue:<name>` or `queues.<attribute>`."""
        if words.startswith("queue:"):
            queue = self.queue_names.get(words.removeprefix("queue:"))
        else:
            queue = self.queue_attributes.get(words.removeprefix("queues."))
        return self._rpcs.get(queue.function.key) if queue else None

    def declared(self, module: str, target: TargetFact) -> FunctionModel | None:
        """The function behind any target."""
        if target.kind == "name":
            found = self.names.get(target.text) or self.workflow_names.get(target.text)
            return found.function if found else None
        if target.kind == "attribute":
            rpc = self.attributes.get(target.text)
            return rpc.function if rpc else None
        if target.kind == "workflow":
            flow = self.workflow_attributes.get(target.text)
            return flow.function if flow else None
        return self.function(module, target.text) if target.kind == "reference" else None
