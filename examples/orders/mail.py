"""Runs for each order that `orders.book` has booked."""


def handler(booking, context):
    print(f"order {booking['order']}: {booking['price']} euros, after {context.headers['Mayfly-Source']}")
