"""Schedules in records, as users write them: five fields of cron, or a word for such."""

WORDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}


def five_fields(schedule: str) -> str:
    return WORDS.get(schedule, schedule)
