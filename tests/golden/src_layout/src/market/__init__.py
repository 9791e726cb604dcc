from market.setup import make as make
