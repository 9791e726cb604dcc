class Order(
