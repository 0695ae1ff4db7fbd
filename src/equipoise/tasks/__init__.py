"""Tasks: items put to a model, with labels. No model code here."""

from equipoise.tasks.capability import (
    Capability,
    CapabilitySource,
    list_capabilities,
    load_capability,
)
from equipoise.tasks.item import SPLITS, Item, Side, Split, Task
from equipoise.tasks.jsonl import read_anchors, read_jsonl, write_jsonl
from equipoise.tasks.registry import TaskSource, list_tasks, load_task, task_options
from equipoise.tasks.summary import SplitSummary, TaskSummary, describe

__all__ = [
    "SPLITS",
    "Capability",
    "CapabilitySource",
    "Item",
    "Side",
    "Split",
    "SplitSummary",
    "Task",
    "TaskSource",
    "TaskSummary",
    "describe",
    "list_capabilities",
    "list_tasks",
    "load_capability",
    "load_task",
    "read_anchors",
    "read_jsonl",
    "task_options",
    "write_jsonl",
]
