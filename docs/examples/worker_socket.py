"""A worker that loses no job, on a plain socket, as clients of Kestrel do it: a few jobs are read ahead, and confirmed in the order in which they
were read. It confirms by id, too, which any connection may do. Ends when there was nothing to do for a second.
Usage: python worker_socket.py HOST PORT QUEUE"""

import socket
import sys

host, port, queue = sys.argv[1], int(sys.argv[2]), sys.argv[3]
READ_AHEAD = 4

connection = socket.create_connection((host, port), timeout=30)
replies = connection.makefile("rb")
failed = set()


def ask(request):
    connection.sendall(request.encode() + b"\r\n")


def read():
    """The job of one answer to a get, and its id; None if there is none."""
    line = replies.readline().split()
    if line == [b"END"]:
        return None
    if not line or line[0] != b"VALUE":
        sys.exit(f"the server said {line}")
    size, message = int(line[3]), int(line[4])
    job = replies.read(size + 2)[:-2].decode()
    assert replies.readline() == b"END\r\n"
    return job, message


def work(job):
    """What there is to do. To show what happens then, it fails once with a job that is called flaky."""
    if job.startswith("flaky") and job not in failed:
        failed.add(job)
        raise RuntimeError("try again")


while True:
    ask(f"gets {queue}/open/t=1000")
    first = read()
    if first is None:
        break
    # What else is there at once.
    for _ in range(READ_AHEAD - 1):
        ask(f"gets {queue}/open")
    jobs = [first] + [job for job in (read() for _ in range(READ_AHEAD - 1)) if job is not None]
    for job, message in jobs:
        try:
            work(job)
        except RuntimeError as problem:
            # The oldest that is open is always the one at hand.
            ask(f"get {queue}/abort")
            assert replies.readline() == b"END\r\n"
            print(f"gave back {job}: {problem}")
            continue
        # `get QUEUE/close` would do the same. This one may come from another connection.
        ask(f"delete {queue}/id={message}")
        if replies.readline() != b"DELETED\r\n":
            print(f"{job} had returned before it was done")
            continue
        print(f"done {job}")
connection.close()
