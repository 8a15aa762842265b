"""Runs by the clock; `mayfly schedules` tells when next."""


def handler(_event, context):
    print("good morning from", context.event.type)
