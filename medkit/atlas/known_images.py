"""Which images are the same one, whatever they are called: told by their voxels."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from medkit.atlas.result import AtlasFolder, Member
from medkit.atlas.subjects import AtlasSubject
from medkit.atlas.volumes import load_volume


def digest_of(volume: Tensor) -> str:
    """Return a word that is the same for the same voxels, wherever they lie in space and whatever the file is.

    Args:
        volume: float32, ``(1, 1, X, Y, Z)``.
    """
    return hashlib.sha256(f"{tuple(volume.shape)}".encode() + volume.numpy().tobytes()).hexdigest()[:32]


def digests_of(subject: AtlasSubject) -> dict[str, str]:
    """Return the word of each image of a subject, by contrast; see :func:`digest_of`.

    Raises:
        FileNotFoundError: if a file is not there.
        ValueError: if a file is bad.
    """
    return {contrast: digest_of(load_volume(path)[0]) for contrast, path in subject.images.items()}


def copies(digests: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Say which subjects have the same image.

    Args:
        digests: for each subject those of its images, by contrast.

    Returns:
        Sentences.

    Example:
        >>> copies({"a": {"t1": "0f"}, "b": {"t1": "0f"}})
        ['The images t1 of a and b are the same, voxel by voxel, and count as 2.']
    """
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, of_subject in digests.items():
        for contrast, digest in of_subject.items():
            groups[contrast, digest].append(name)
    return [
        f"The images {contrast} of {', '.join(names[:-1])} and {names[-1]} are the same, voxel by voxel, and count as "
        f"{len(names)}."
        for (contrast, _), names in groups.items()
        if len(names) > 1
    ]


def original_images(atlas: AtlasFolder, member: Member) -> Mapping[str, str]:
    """Return the files that a user gave of a subject, not those that the atlas made of them."""
    return atlas.intensities.originals.get(member.name, member.subject.images)


def known_as(atlas: AtlasFolder, subject: AtlasSubject, digests: Mapping[str, str]) -> list[Member]:
    """Return who of an atlas has an image of a subject: the same file, or the same voxels in another one.

    Args:
        atlas: the atlas; those that it was built of, then those that were added.
        subject: the subject.
        digests: of its images.
    """
    files, words = {_resolved(path) for path in subject.images.values()}, set(digests.values())
    return [
        member
        for member in (*atlas.members, *atlas.added)
        if words & set(member.digests.values())
        or files & {_resolved(path) for path in original_images(atlas, member).values()}
    ]


def refuse_known(atlas: AtlasFolder, subjects: Sequence[AtlasSubject], caller: str, replaces: bool = False) -> None:
    """Refuse subjects that an atlas was built of or that were added to it, under whatever names.

    Args:
        atlas: the atlas.
        subjects: new ones.
        caller: for the message.
        replaces: whether a subject may take the place of one that was added under its name.

    Raises:
        FileNotFoundError: if a file is not there.
        ValueError: if the atlas has one of them, two of them are one image, or a file is bad.
    """
    built, added = ({m.name for m in members} for members in (atlas.members, atlas.added))
    seen: dict[tuple[str, str], str] = {}
    for subject in subjects:
        name = subject.name
        if name in built:
            raise ValueError(
                f"{caller}: the atlas was built of {name!r}, which is nothing new to it; leave it out, or give it "
                "another name if it is somebody else"
            )
        digests = digests_of(subject)
        other = next((m.name for m in known_as(atlas, subject, digests) if m.name != name), None)
        if other is not None:
            had = "was built of" if other in built else "has"
            raise ValueError(f"{caller}: the atlas {had} the image of {name!r} under the name {other!r}; leave it out")
        if name in added and not replaces:
            raise ValueError(
                f"{caller}: a subject {name!r} was added before; replace it by 'replace' (--replace), or give the new "
                "one another name"
            )
        for contrast, digest in digests.items():
            twin = seen.setdefault((contrast, digest), name)
            if twin != name:
                raise ValueError(f"{caller}: {twin!r} and {name!r} are one image, voxel by voxel; leave one out")


def _resolved(path: str) -> str:
    return str(Path(path).resolve())
