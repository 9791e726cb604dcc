from shop_pikku import pikku_func

name = "ÿþ"
