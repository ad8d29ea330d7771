"""What ANTs does in a comparison, in a process of its own, so that its threads and prints stay there.

A task is a JSON file; the answer goes into another one, with CPU-seconds of the work alone, imports left out:

    python -m tests.benchmarks.ants_side task.json answer.json
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children so far, seconds."""
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in spent)


def run_ants(task: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Do a task in another process.

    Args:
        task: what to do, see :func:`work`.
        folder: of its files, the log among them.

    Returns:
        The answer.

    Raises:
        RuntimeError: if the process fails; the message ends with what it said last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    question, answer, log = folder / "task.json", folder / "answer.json", folder / "log.txt"
    question.write_text(json.dumps({**task, "folder": str(folder)}))
    threads = str(task["threads"])
    environment = {**os.environ, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": threads, "OMP_NUM_THREADS": threads}
    command = [sys.executable, "-m", "tests.benchmarks.ants_side", str(question), str(answer)]
    with log.open("w") as file:
        status = subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False)
    if status.returncode:
        raise RuntimeError(f"ANTs failed with code {status.returncode}: {log.read_text()[-2000:]}")
    return dict(json.loads(answer.read_text()))


def work(task: dict[str, Any]) -> dict[str, Any]:
    """Build a template, and if there are labels bring them through it to unseen subjects.

    Args:
        task: ``folder``; ``images``, NIfTI files on one grid; ``iterations``, how many rounds; ``options`` of
            ``ants.registration``; and for labels ``labels``, one for each image, and ``unseen``, files of others.

    Returns:
        ``rounds``: after each, ``template`` (file) and ``cpu_s`` since the start. With labels also ``warps`` of the
        template to its images, ``unseen``: for each of them ``labels``, ``image`` and ``warp`` (files), and
        ``labelling_cpu_s``, the time for all of this.
    """
    import ants

    folder = Path(task["folder"])
    began = cpu_seconds()
    images = [ants.image_read(path) for path in task["images"]]
    rounds: list[dict[str, Any]] = []
    template = None
    # One round after the other is the same as all in one call, and shows what each is worth.
    for k in range(task["iterations"]):
        template = ants.build_template(template, images, iterations=1, **task["options"])
        spent = cpu_seconds() - began
        path = folder / f"template_{k + 1}.nii.gz"
        ants.image_write(template, str(path))
        rounds.append({"template": str(path), "cpu_s": spent})
    answer: dict[str, Any] = {"rounds": rounds}
    if "labels" in task:
        answer |= _labels(ants, task, template, images, folder)
    return answer


def _labels(ants: Any, task: dict[str, Any], template: Any, images: list[Any], folder: Path) -> dict[str, Any]:
    """Vote for the template's labels, and bring them to the unseen."""
    began = cpu_seconds()
    warps, moved = [], []
    for k, (image, path) in enumerate(zip(images, task["labels"], strict=True)):
        found = ants.registration(template, image, outprefix=str(folder / f"member{k}_"), **task["options"])
        warps.append(found["fwdtransforms"][0])
        labels = ants.image_read(path)
        moved.append(ants.apply_transforms(template, labels, found["fwdtransforms"], "nearestNeighbor").numpy())
    votes = template.new_image_like(majority(np.stack(moved).astype(np.int64)).astype(np.float32))
    unseen = []
    for k, path in enumerate(task["unseen"]):
        image = ants.image_read(path)
        found = ants.registration(image, template, outprefix=str(folder / f"unseen{k}_"), **task["options"])
        labels = ants.apply_transforms(image, votes, found["fwdtransforms"], "nearestNeighbor")
        names = {part: str(folder / f"unseen{k}_{part}.nii.gz") for part in ("labels", "image")}
        ants.image_write(labels, names["labels"])
        ants.image_write(found["warpedmovout"], names["image"])
        unseen.append({**names, "warp": found["fwdtransforms"][0]})
    return {"warps": warps, "unseen": unseen, "labelling_cpu_s": cpu_seconds() - began}


def majority(labels: np.ndarray) -> np.ndarray:
    """Return the most frequent label of each voxel, the lowest of equals; whole numbers, ``(n, *S)`` to ``*S``."""
    values = np.unique(labels)
    best, winner = np.zeros(labels.shape[1:], int), np.zeros(labels.shape[1:], labels.dtype)
    for value in values:
        count = (labels == value).sum(0)
        better = count > best
        best[better], winner[better] = count[better], value
    return winner


def main() -> None:
    """Do the task of the first argument, and write the answer to the second."""
    question, answer = map(Path, sys.argv[1:])
    answer.write_text(json.dumps(work(json.loads(question.read_text()))))


if __name__ == "__main__":
    main()
