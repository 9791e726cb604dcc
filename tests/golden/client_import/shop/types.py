from pydantic import BaseModel


class Order(BaseModel):
    name: str

    def shout(self) -> str:
        return self.name.upper()
