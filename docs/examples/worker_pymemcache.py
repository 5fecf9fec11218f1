"""A worker that loses no job: Python with pymemcache. A job leaves its queue when it is done; if this process dies before, or gives it
back, the next worker gets it. Ends when there was nothing to do for a second.
Usage: python worker_pymemcache.py HOST PORT QUEUE"""

import sys

try:
    from pymemcache.client.base import Client
except ImportError as missing:
    print(f"the Python package pymemcache is not installed ({missing})", file=sys.stderr)
    sys.exit(77)

host, port, queue = sys.argv[1], int(sys.argv[2]), sys.argv[3]
failed = set()


def work(job):
    """What there is to do. To show what happens then, it fails once with a job that is called flaky."""
    if job.startswith("flaky") and job not in failed:
        failed.add(job)
        raise RuntimeError("try again")


# The timeout is longer than the server is asked to wait.
client = Client((host, port), connect_timeout=5, timeout=30)
job = client.get(f"{queue}/open/t=1000")
while job is not None:
    name = job.decode()
    try:
        work(name)
    except RuntimeError as problem:
        client.get(f"{queue}/abort")
        print(f"gave back {name}: {problem}")
        job = client.get(f"{queue}/open/t=1000")
        continue
    # Confirms this one and reads the next. An exception here: the job is not confirmed, and comes again.
    job = client.get(f"{queue}/close/open/t=1000")
    print(f"done {name}")
client.close()
