"""mayfly deploy examples/hello.py && mayfly invoke hello -d '{"name": "Ada"}'"""


def handler(event, context):
    name = (event or {}).get("name", "world")
    print("greeting", name)
    return {"greeting": f"Hello, {name}!", "cold": context.cold}
