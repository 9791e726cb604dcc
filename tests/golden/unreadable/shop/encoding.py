# coding: no-such-encoding
from shop_pikku import pikku_func
