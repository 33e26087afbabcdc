"""Whether the kernel's own probes go on, as the agent sees it: by what its starters do."""

import asyncio

from meshfabric.probe.starter import TURNS_TO_MISS, Starter
from tests.features import requires
from tests.patience import DEADLINE_S

IDLE_MS = 5


class Token:
    """One that comes round while it is `well`, each time that it is begun."""

    def __init__(self) -> None:
        self.well, self.device, self.ticks = True, "gone0", 0
        self.told: list[bool] = []
        self.changed = asyncio.Event()
        self.starter = Starter(IDLE_MS, lambda: self.device, self.look, self.tell)

    def look(self) -> int:
        self.ticks += self.well
        return self.ticks

    def tell(self) -> None:
        self.told.append(self.starter.works)
        self.changed.set()

    async def until_told(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await self.changed.wait()
        self.changed.clear()


@requires("capabilities")
def test_it_works_once_the_token_was_seen_to_come_round() -> None:
    token = Token()

    async def life() -> None:
        running = asyncio.create_task(token.starter.run())
        assert not token.starter.works
        for well in (True, False, True):
            token.well = well
            await token.until_told()
        running.cancel()

    asyncio.run(life())
    assert token.told == [True, False, True]


def test_one_turn_missed_is_not_the_end() -> None:
    token = Token()
    for _ in range(3):
        token.starter._judge(ticked=True)
        for _ in range(TURNS_TO_MISS - 1):
            token.starter._judge(ticked=False)
    assert token.told == [True]


@requires("capabilities")
def test_without_a_loop_it_does_not_work() -> None:
    token = Token()
    token.device = ""

    async def life() -> None:
        running = asyncio.create_task(token.starter.run())
        await asyncio.sleep(IDLE_MS / 1000 * (TURNS_TO_MISS + 2))
        running.cancel()

    asyncio.run(life())
    assert token.told == []
    assert not token.starter.works
