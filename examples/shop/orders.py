import catalogue


def handler(event, context):
    """``GET /orders/{id}``: with ``statusCode`` in it, what is returned becomes the HTTP response itself."""
    if context.http is None:
        return {"error": "ask me by HTTP"}
    number = context.http.params["id"]
    if not number.isdigit():
        return {"statusCode": 400, "body": {"error": f"{number} is not a number"}}
    article = sorted(catalogue.ARTICLES)[int(number) % len(catalogue.ARTICLES)]
    return {
        "statusCode": 200,
        "headers": {"Cache-Control": "no-store"},
        "body": {"order": int(number), "article": article, "price": catalogue.price_of(article)},
    }
