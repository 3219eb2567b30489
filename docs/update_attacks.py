"""Write the table of ``docs/attacks.md`` again from the registry: ``python docs/update_attacks.py``."""

from pathlib import Path

from intriguing.attacks import ATTACKS
from intriguing.attacks.capabilities import capability_table

PAGE = Path(__file__).with_name("attacks.md")
START, END = "<!-- made by docs/update_attacks.py -->\n", "<!-- end -->\n"


def updated(text: str) -> str:
    """Return the page with the table that the registry gives."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{capability_table(ATTACKS)}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text()))
