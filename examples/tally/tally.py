"""Counts words for other services: one line in, all counts out. No HTTP, and nobody else reaches it."""

import asyncio

MOST = 100  # words; whoever connects may send what they like


async def main(caps):
    counts = {}
    async with asyncio.TaskGroup() as group:
        async for caller, stream in caps.aio.accepted():  # ends when the service is to stop
            group.create_task(answer(counts, caller, stream))
    print(f"stopping; {sum(counts.values())} votes were counted", flush=True)


async def answer(counts, caller, stream):
    reader, writer = await asyncio.open_unix_connection(sock=stream)
    try:
        word = (await asyncio.wait_for(reader.readline(), 5)).decode().strip()
        if word and (word in counts or len(counts) < MOST):
            counts[word] = counts.get(word, 0) + 1
            print(f"{caller} counts {word!r}", flush=True)
        writer.write("".join(f"{count} {each}\n" for each, count in sorted(counts.items())).encode())
        await writer.drain()
    except (OSError, ValueError, TimeoutError) as error:
        print(f"{caller}: {error!r}", flush=True)
    finally:
        writer.close()
