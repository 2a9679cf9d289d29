"""Everything a run makes, with the identity that decides whether it can be reused.

An artifact is a folder: the tokenizer, the packed rows of a source, the evaluation items, a
trained and evaluated stage. `record.json` (for stages `stage.json`) says what it is and what it
is made from; `DONE` is written last. Making one reads the record alone, so any artifact can be
made again by hand: `python -m frontload.study.stage FOLDER`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frontload.corpus.sources import open_source, parts_of
from frontload.corpus.stream import Split
from frontload.model.config import ModelConfig
from frontload.study.engine import Job
from frontload.study.identity import (
    Identity,
    code_identity,
    content_digest,
    differences,
    digest,
    read_json,
    write_json,
)
from frontload.study.plan import Plan, StageNode, settings
from frontload.study.spec import StudySpec

DONE = "DONE"
TOKENIZER = "tokenizer"
ITEMS = "evaluation-items"


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One folder of a run; `needs` are names of other artifacts."""

    name: str
    directory: Path
    function: str
    identity: Identity
    needs: tuple[str, ...]
    inputs: dict[str, Any]
    record_name: str = "record.json"

    @property
    def done(self) -> bool:
        """Finished, whatever it was made from."""
        return (self.directory / DONE).is_file()

    @property
    def job(self) -> Job:
        """The engine's view of it."""
        return Job(
            name=self.name,
            function=self.function,
            arguments=(self.directory,),
            directory=self.directory,
            needs=self.needs,
        )

    def stale(self) -> list[str]:
        """Differences between what is on disk and what is planned; empty when they agree.

        A folder that holds a record and a log alone was never begun, and agrees with any plan.
        """
        path = self.directory / self.record_name
        if not path.is_file():
            return [f"{path.name}: (absent) -> planned"] if self.done else []
        if {entry.name for entry in self.directory.iterdir()} <= {path.name, "log.txt", ".lock"}:
            return []
        return differences(read_json(path)["identity"], self.identity)

    def write_record(self) -> None:
        """Say what is about to be made here."""
        record = {"name": self.name, "identity": self.identity, **self.inputs}
        write_json(self.directory / self.record_name, record)


class Layout:
    """All artifacts of a study under `run`; paths in the spec are relative to `root`."""

    def __init__(self, spec: StudySpec, plan: Plan, *, root: Path, run: Path) -> None:
        self.spec, self.plan, self.root, self.run = spec, plan, root.resolve(), run.resolve()
        self.code = dict(code_identity())
        self._contents: dict[tuple[str, str], str] = {}
        self.artifacts: dict[str, Artifact] = {}
        self._add(self._tokenizer())
        for source, supervise in plan.packs:
            self._add(self._pack(source, supervise))
        self._add(self._items())
        for node in plan.nodes.values():
            self._add(self._stage(node))

    def _add(self, artifact: Artifact) -> None:
        self.artifacts[artifact.name] = artifact

    def stage_directory(self, name: str) -> Path:
        """The folder of a stage."""
        return self.artifacts[name].directory

    def _tokenizer(self) -> Artifact:
        config = self.spec.tokenizer
        made_from: dict[str, Any] = {"settings": config.model_dump(mode="json")}
        if config.load is not None:
            origin = local_or_hub(self.root, config.load)
            made_from["content"] = content_digest(origin, config.revision)
        return Artifact(
            name=TOKENIZER,
            directory=self.run / "tokenizer",
            function="frontload.study.prepare:make_tokenizer",
            identity={
                **made_from,
                "sources": {name: self._source(name, "train") for name in config.train_on},
                "code": self._code("corpus", "tasks", "model"),
            },
            needs=(),
            inputs=self._common(),
        )

    def _pack(self, source: str, supervise: str) -> Artifact:
        name = pack_name(source, supervise)
        return Artifact(
            name=name,
            directory=self.run / "data" / name,
            function="frontload.study.prepare:make_pack",
            identity={
                "source": self._source(source, "train"),
                "supervise": supervise,
                "context": self.spec.model.context,
                "tokenizer": self._digest(TOKENIZER),
                "code": self._code("corpus", "tasks", "model"),
            },
            needs=(TOKENIZER,),
            inputs={**self._common(), "source": source, "supervise": supervise},
        )

    def _items(self) -> Artifact:
        config = self.spec.evaluation
        read = [b.source for b in config.benchmarks.values() if b.source]
        read += [text.source for text in config.text.values()]
        return Artifact(
            name=ITEMS,
            directory=self.run / "data" / ITEMS,
            function="frontload.study.prepare:make_items",
            identity={
                "settings": config.model_dump(mode="json"),
                "context": self.spec.model.context,
                "tokenizer": self._digest(TOKENIZER),
                "sources": {name: self._source(name, "heldout") for name in read},
                "code": self._code("corpus", "tasks", "model", "evaluate"),
            },
            needs=(TOKENIZER,),
            inputs=self._common(),
        )

    def _stage(self, node: StageNode) -> Artifact:
        packs = {name: pack_name(name, node.config.supervise) for name in node.config.sources}
        model: dict[str, Any] = self.spec.model.model_dump(mode="json")
        if self.spec.model.start and node.parent is None:
            start = local_or_hub(self.root, self.spec.model.start)
            model["content"] = content_digest(start, self.spec.model.revision)
        return Artifact(
            name=node.name,
            directory=self.run / "stages" / node.name,
            function="frontload.study.stage:run_stage",
            identity={
                "settings": settings(node.config),
                "seed": node.seed,
                "model": model,
                "parent": self._digest(node.parent) if node.parent else None,
                "packs": {source: self._digest(name) for source, name in packs.items()},
                "tokenizer": self._digest(TOKENIZER),
                "evaluation": self._digest(ITEMS),
                "code": self.code,
            },
            needs=(TOKENIZER, ITEMS, *packs.values(), *filter(None, [node.parent])),
            inputs={
                **self._common(),
                "stage": node.config.model_dump(mode="json"),
                "seed": node.seed,
                "arms": node.arms,
                "parent": node.parent,
                "packs": packs,
                "keep_optimizer": node.keep_optimizer,
            },
            record_name="stage.json",
        )

    def _common(self) -> dict[str, Any]:
        """What every job needs to find its way; never part of an identity."""
        return {
            "run": str(self.run),
            "root": str(self.root),
            "sources": {
                name: source.model_dump(mode="json", exclude_unset=True)
                for name, source in self.spec.sources.items()
            },
            "model": self.spec.model.model_dump(mode="json"),
            "tokenizer": self.spec.tokenizer.model_dump(mode="json", exclude_unset=True),
            "evaluation": self.spec.evaluation.model_dump(mode="json"),
            "engine": self.spec.engine.model_dump(mode="json"),
        }

    def _source(self, name: str, split: Split) -> dict[str, Any]:
        """What a source holds, and the settings of all that it is made from."""
        return {"content": self._content(name, split), "settings": self._settings(name)}

    def _settings(self, name: str) -> dict[str, Any]:
        source = self.spec.sources[name]
        parts = {part: self._settings(part) for part in parts_of(source)}
        return source.model_dump(mode="json") | ({"parts": parts} if parts else {})

    def _content(self, name: str, split: Split) -> str:
        if (name, split) not in self._contents:
            source = open_source(name, self.spec.sources, root=self.root, split=split)
            self._contents[name, split] = source.fingerprint()
        return self._contents[name, split]

    def _code(self, *rooms: str) -> dict[str, str]:
        """The code that can change an artifact: these rooms, and the libraries."""
        return {
            key: value
            for key, value in self.code.items()
            if not key.startswith("frontload.")
            or key.removeprefix("frontload.") in (*rooms, "study")
        }

    def _digest(self, name: str) -> str:
        return digest(self.artifacts[name].identity)


def local_or_hub(root: Path, origin: Path | str) -> Path | str:
    """A path relative to the spec's folder, when it exists; else the name of a hub repository."""
    local = root / origin
    return local if local.exists() else str(origin)


def placed_model(config: ModelConfig, root: Path) -> ModelConfig:
    """The settings with a local checkpoint's path made absolute."""
    if config.start is None:
        return config
    return config.model_copy(update={"start": str(local_or_hub(root, config.start))})


def pack_name(source: str, supervise: str) -> str:
    """Folder of a source's packed rows; the usual kind of supervision goes unsaid."""
    return source if supervise == "response" else f"{source}.{supervise}"
