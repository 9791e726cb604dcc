from shop.one import One


class Two:
    one: One
