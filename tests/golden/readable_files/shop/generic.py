from dataclasses import dataclass

type Maybe = int | None


@dataclass
class Pair[T]:
    first: T
    second: T


words = f"{", ".join(["a", "b"])}"
