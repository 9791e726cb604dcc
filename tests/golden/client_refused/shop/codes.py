import uuid
from typing import NewType

Code = NewType("Code", str)


def new_code() -> Code:
    return Code(uuid.uuid4().hex)
