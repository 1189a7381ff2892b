# A server that takes its sockets from LISTEN_FDS and ends in good order on TERM. What it does is told by its key:
# bad… is never healthy, dead… ends at once, stubborn… does not end on TERM, into hidden… nobody but root may look.
# rude… takes its time before it reads, and when it ends resets whom it has not read yet. deaf… accepts nobody once there is a
# file `deaf`. What has slow in it takes two seconds more to end, with lingers until there is a file `finish`, and with exits7
# its code is 7.
import json, os, select, signal, socket, struct, sys, threading, time

PID = os.getpid()
KEY = os.environ["KEY"]
NOTES = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
ending = threading.Event()
busy = []


def note(*words):
    os.write(NOTES, (" ".join(map(str, (PID,) + words)) + "\n").encode())


def on_term(number, frame):
    note("TERM", KEY)
    ending.set()


def answer(connection, private):
    with connection:
        connection.settimeout(30)
        if KEY.startswith("rude") and ending.wait(0.2):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        asked = b""
        while b"\r\n\r\n" not in asked:
            more = connection.recv(4096)
            if not more:
                return
            asked += more
        path = asked.split()[1].decode()
        if path == "/slow":
            time.sleep(3)
        status = "503 No" if private and KEY.startswith("bad") else "200 OK"
        body = json.dumps({"pid": PID, "key": KEY, "private": private}).encode()
        head = "HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(body))
        connection.sendall(head.encode() + body)


def main():
    if KEY.startswith("dead"):
        sys.exit(3)
    if KEY.startswith("hidden"):
        import ctypes
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: nobody but root may look into it
    signal.signal(signal.SIGTERM, on_term)
    assert os.environ["LISTEN_PID"] == str(PID), "LISTEN_PID"
    names = os.environ["LISTEN_FDNAMES"].split(":")
    assert len(names) == int(os.environ["LISTEN_FDS"]), names
    sockets = {}
    for number, name in enumerate(names, start=3):
        taken = socket.socket(fileno=number)
        taken.setblocking(False)
        sockets[number] = (taken, name == "private")
    note("START", KEY, ",".join(names))
    poll = select.poll()
    for number in sockets:
        poll.register(number, select.POLLIN)
    while not ending.is_set() or KEY.startswith("stubborn"):
        if KEY.startswith("deaf") and os.path.exists("deaf"):
            note("DEAF", KEY)
            ending.wait()
            continue
        for number, _ in poll.poll(20):
            listening, private = sockets[number]
            try:
                connection, _ = listening.accept()
            except BlockingIOError:
                continue  # the other process was faster
            connection.setblocking(True)
            thread = threading.Thread(target=answer, args=(connection, private))
            thread.start()
            busy.append(thread)
    for thread in busy:
        thread.join()
    if "slow" in KEY:
        time.sleep(2)
    while "lingers" in KEY and os.path.exists("server.py") and not os.path.exists("finish"):
        time.sleep(0.05)
    note("END", KEY)
    if "exits7" in KEY:
        sys.exit(7)


main()
