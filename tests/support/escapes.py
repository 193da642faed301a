"""Attempts to get out of the sandbox, by name. Each is the body of a function.

It gives something true, or prints "held" or "escaped", where it succeeds; an error is a refusal.
None changes the machine: what would is opened and not written.
"""

# ruff: noqa: E501
from __future__ import annotations

PRELUDE = """
import ctypes, ctypes.util, errno, fcntl, glob, json, mmap, os, resource, signal, socket, struct, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
given = json.load(sys.stdin)
secret, victim, shared = given["secret"], given["victim"], given["shared"]
def call(number, *a):
    found = libc.syscall(number, *a)
    if found < 0:
        raise OSError(ctypes.get_errno(), number)
    return True
def opens(path, how="r"):
    open(path, how).close()
    return True
"""

NEW_USER, NEW_SPACE, NEW_PROCESSES = 0x10000000, 0x20000, 0x20000000

ESCAPES = {
    "user namespace": f"return libc.unshare({NEW_USER}) == 0",
    "mount namespace": f"return libc.unshare({NEW_SPACE}) == 0",
    "namespace by clone": f"""
found = libc.syscall(56, {NEW_USER} | 17, 0, 0, 0, 0)
if found == 0: os._exit(0)
return found > 0""",
    "namespace by clone3": f"""
arguments = ctypes.create_string_buffer(struct.pack("8Q", {NEW_USER}, 0, 0, 0, 17, 0, 0, 0), 64)
found = libc.syscall(435, arguments, 64)
if found == 0: os._exit(0)
return found > 0""",
    "proc of its own": f"""
if libc.unshare({NEW_USER} | {NEW_SPACE} | {NEW_PROCESSES}): return False
if os.fork() == 0:
    if libc.mount(b"proc", os.getcwd().encode(), b"proc", 0, None) == 0: print("escaped", flush=True)
    os._exit(0)
os.wait()""",
    "mount": 'return libc.mount(b"tmpfs", os.getcwd().encode(), b"tmpfs", 0, None) == 0',
    "new mount calls": 'return call(430, b"tmpfs", 0)',
    "remount": 'return libc.mount(b"none", b"/proc", None, 0x20, None) == 0',
    "namespace of process 1": 'return libc.setns(os.open("/proc/1/ns/mnt", os.O_RDONLY), 0) == 0',
    "chroot": 'os.chroot("."); return True',
    "proc/sys": 'return opens("/proc/sys/kernel/core_pattern", "r+")',
    "proc/sys of the network": 'return any(opens(p, "r+") for p in glob.glob("/proc/sys/net/ipv4/ip_forward"))',
    "proc/sysrq-trigger": 'return opens("/proc/sysrq-trigger", "w")',
    "sys": 'return any(os.access(p, os.W_OK) and opens(p, "r+") for p in glob.glob("/sys/kernel/*"))',
    "cgroups": 'return os.mkdir("/sys/fs/cgroup/memory/mine") or True',
    "oom score of others": 'return opens(f"/proc/{victim}/oom_score_adj", "r+")',
    "TCP": "return socket.socket()",
    "UDP": "return socket.socket(type=socket.SOCK_DGRAM)",
    "netlink": "return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "raw packets": "return socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "kernel crypto sockets": "return socket.socket(38, socket.SOCK_SEQPACKET)",
    "Unix sockets": "return socket.socket(socket.AF_UNIX)",
    "abstract sockets": 'socket.socket(socket.AF_UNIX).bind("\\0mine"); return True',
    "host sockets": "return socket.socket(40, socket.SOCK_STREAM)",
    "trace": "return call(101, 16, parent, 0, 0)",
    "trace another": "return call(101, 16, victim, 0, 0)",
    "read memory": """
room = ctypes.create_string_buffer(8)
part = struct.pack("2Q", ctypes.addressof(room), 8)
return libc.syscall(310, victim, part, 1, part, 1, 0) >= 0 or ctypes.get_errno() == errno.EFAULT""",
    "memory file": 'return opens(f"/proc/{victim}/mem", "rb")',
    "parent's memory file": 'return opens(f"/proc/{parent}/mem", "rb")',
    "parent's files": 'return any(os.readlink(f"/proc/{parent}/fd/{n}") for n in range(64))',
    "environment of another": 'return b"hunter2" in open(f"/proc/{victim}/environ", "rb").read()',
    "environments": """
for path in glob.glob("/proc/[0-9]*/environ"):
    try:
        if b"hunter2" in open(path, "rb").read(): return True
    except OSError: pass""",
    "files of another": 'return os.listdir(f"/proc/{victim}/fd")',
    "root of another": 'return os.listdir(f"/proc/{victim}/root/")',
    "own environment": 'return set(os.environ) - {"PATH", "LANG", "PYTHONHASHSEED", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "HOME", "TMPDIR", "PWD", "LC_CTYPE"}',
    "signal": "os.kill(victim, 0); return True",
    "signal by thread": "return call(234, victim, victim, 0)",
    "signal by descriptor": "return call(424, os.pidfd_open(victim), 0, None, 0)",
    "signal with a value": "return call(129, victim, 0, ctypes.create_string_buffer(128))",
    "signal to all": "os.kill(-1, 0); return True",
    "limits of another": "return resource.prlimit(victim, resource.RLIMIT_CORE, (0, 0)) or True",
    "cores of another": "return os.sched_setaffinity(victim, {0}) or True",
    "priority of another": "return os.setpriority(os.PRIO_PROCESS, victim, 19) or True",
    "descriptor of another": "return call(438, os.pidfd_open(victim), 0, 0)",
    "becomes root": "os.setuid(0); return os.getuid() == 0",
    "becomes another": "os.setresuid(1, 1, 1); return True",
    "takes groups": "os.setgroups([0]); return True",
    "capabilities": 'return any(l.split()[1].strip("0") for l in open("/proc/self/status") if l.startswith(("CapEff", "CapPrm")))',
    "privileges by programs": "return libc.prctl(39, 0, 0, 0, 0) != 1",
    "keys": 'return call(248, b"user", b"k", b"x", 1, -3)',
    "key rings": "return call(250, 0, -3, 1)",
    "io_uring": "return call(425, 1, ctypes.create_string_buffer(120))",
    "userfaultfd": "return call(323, 1)",
    "bpf": "return call(321, 0, ctypes.create_string_buffer(72), 72)",
    "perf": 'return call(298, ctypes.create_string_buffer(struct.pack("IIQ", 1, 112, 0), 112), 0, -1, -1, 0)',
    "fanotify": "return call(300, 0x200, 0)",
    "kernel log": "return call(103, 10, 0, 0) ",
    "files by handle": "return libc.syscall(304, -100, b'x' * 16, 0) >= 0 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS)",
    "host name": 'return libc.sethostname(b"mine", 4) == 0',
    "clock": "return libc.settimeofday(struct.pack('2q', 0, 0), None) == 0",
    "ports": "return libc.iopl(3) == 0",
    "device": 'os.mknod("d", 0o20666, os.makedev(1, 1)); return opens("d")',
    "disks": 'return any(opens(p, "rb") for p in glob.glob("/dev/[svn][dv][am]*"))',
    "memory of the machine": 'return opens("/dev/mem", "rb")',
    "terminal": 'return opens("/dev/tty")',
    "terminal input": """
main, side = os.openpty()
fcntl.ioctl(side, 0x5412, b"x"); return True""",
    "inherited descriptors": """
found = []
for fd in range(4, 1024):
    try: found.append((fd, os.fstat(fd)))
    except OSError: pass
return found""",
    "memfd": 'return os.memfd_create("x")',
    "secret memory": "return call(447, 0)",
    "SysV segment": "return libc.shmget(0, 4096, 0o1600) >= 0",
    "SysV queue": "return libc.msgget(0, 0o1600) >= 0",
    "POSIX queue": 'return call(240, b"mine", 0o102, 0o600, None)',
    "shared memory": "return mmap.mmap(-1, 4096)",
    "shared zero": 'return opens("/dev/zero", "r+b")',
    "large pipes": "return fcntl.fcntl(os.pipe()[0], 1031, 1 << 20)",
    "secret": "return opens(secret)",
    "secret by link": 'os.symlink(secret, "l"); return opens("l")',
    "secret by hard link": 'os.link(secret, "h"); return opens("h")',
    "secret by magic link": 'os.symlink(f"/proc/self/cwd/../../../{secret}", "m"); return opens("m")',
    "secret by parent": "return os.stat(secret) and os.listdir(os.path.dirname(secret))",
    "root's home": 'return os.listdir("/root")',
    "homes": 'return os.listdir("/home") or True',
    "shadow": 'return opens("/etc/shadow")',
    "work folder's parent": 'return [n for n in os.listdir("..") if n in ("work", "secret")] and os.getcwd() != "/tmp"',
    "writes outside": 'return opens(shared + "/file", "w")',
    "writes outside by link": 'os.symlink(shared, "s"); return opens("s/file", "w")',
    "moves outside": 'open("f", "w").close(); os.rename("f", shared + "/file"); return True',
    "writes to /var/tmp": 'return opens("/var/tmp/drpo-mine", "w")',
    "writes to itself": 'return opens(sys.argv[0], "r+")',
    "changes modes outside": "was = os.stat(secret).st_mode; os.chmod(secret, 0o777); return os.stat(secret).st_mode != was",
    "writes to Python": 'return opens(os.__file__, "r+")',
    "removes itself": "os.remove(sys.argv[0]); return True",
}

HOLDS = {  # programs that take 900 MiB, or much else, and print "held"
    "files in folders of memory": """
size = 0
for i in range(80):
    for folder in (".", "/tmp", "/dev/shm", "/run", "/var/tmp", shared):
        try:
            with open(f"{folder}/drpo-large-{i}", "wb") as file: size += file.write(b"x" * (12 << 20))
        except OSError: pass
if size > 900 << 20: print("held")""",
    "memfd": """
kept = []
for i in range(60):
    kept.append(os.memfd_create("x"))
    size = os.write(kept[-1], b"x" * (15 << 20))
print("held")""",
    "SysV segments": """
libc.shmat.restype = ctypes.c_void_p
for i in range(9):
    key = libc.shmget(0, 100 << 20, 0o1600)
    if key < 0: raise OSError
    place = libc.shmat(key, None, 0)
    ctypes.memset(place, 1, 100 << 20)
    libc.shmdt(ctypes.c_void_p(place)); libc.shmctl(key, 0, None)
print("held")""",
    "shared pages that nobody maps": """
zero = os.open("/dev/zero", os.O_RDWR) if os.path.exists("/dev/zero") else -1
kept = []
for i in range(9):
    one = mmap.mmap(zero, 100 << 20, mmap.MAP_SHARED)
    for at in range(0, 100 << 20, 4096): one[at] = 1
    one.madvise(mmap.MADV_DONTNEED)
    kept.append(one)
    if os.fork() == 0: time.sleep(5); os._exit(0)
print("held")""",
    "a family's own pages": """
for i in range(9):
    if os.fork() == 0:
        held = b"x" * (100 << 20)
        time.sleep(3); os._exit(0)
for i in range(9): os.wait()
print("held")""",
    "sockets": """
size = 0
for i in range(28):
    if os.fork() == 0:
        kept = []
        try:
            while True:
                pair = socket.socketpair()
                kept.append(pair)
                for end in pair:
                    end.setblocking(False)
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24)
                    try:
                        while True: end.send(b"x" * 65536)
                    except BlockingIOError: pass
        except OSError: pass
        time.sleep(2)
        os._exit(0)""",
    "a million files": """
for i in range(200000):
    open(f"f{i}", "w").close()
print("held")""",
    "hidden files": """
os.mkdir("d")
folder = os.open("d", os.O_RDONLY)
os.chmod("d", 0)
for i in range(20):
    file = os.open(f"f{i}", os.O_CREAT | os.O_WRONLY, dir_fd=folder)
    os.write(file, b"x" * (8 << 20)); os.close(file)
    time.sleep(0.05)
print("held")""",
    "threads": """
import threading
threading.stack_size(65536)
for i in range(2000): threading.Thread(target=time.sleep, args=(2,), daemon=True).start()
time.sleep(0.5)
print("held")""",
}

LEAVES = {  # programs that try to leave something behind
    "odd modes": """
def make(path, depth):
    os.mkdir(path)
    for i in range(3 if depth else 0): make(f"{path}/{i}", depth - 1)
    open(path + "/f", "w").close(); os.chmod(path + "/f", 0)
    os.chmod(path, (0, 0o111, 0o222, 0o444, 0o1000)[depth])
make("tree", 4)
os.chmod(".", 0)""",
    "odd names": """
for name in (b"-rf", b"a\nb", b"\xff\xfe", b" ", b"*", b"x" * 255):
    os.mkdir(name); open(name + b"/" + name, "w").close()""",
    "deep folders": """
for i in range(2000):
    os.mkdir("d" * 100); os.chdir("d" * 100)
os.chmod(".", 0)""",
    "links out": 'os.symlink("/", "root"); os.symlink("..", "up"); os.symlink("loop", "loop")',
    "pipes and sockets": 'os.mkfifo("p"); os.chmod("p", 0)',
    "elsewhere": """
for folder in ("/tmp", "/var/tmp", "/dev/shm", "/run/lock", "/run", "/dev/mqueue"):
    try: os.makedirs(folder + "/drpo-left/a"); os.chmod(folder + "/drpo-left", 0)
    except OSError: pass""",
    "a zombie family": """
for i in range(10):
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0: time.sleep(60)
        os._exit(0)""",
    "a stopped process": """
if os.fork() == 0:
    os.kill(os.getpid(), signal.SIGSTOP)""",
}


def attempts() -> str:
    """One program that makes every attempt of ESCAPES, and prints the names of those that work."""
    lines = [PRELUDE, "parent = os.getppid()"]
    for number, body in enumerate(ESCAPES.values()):
        lines.append(f"def attempt_{number}():")
        lines += [f"    {line}" for line in body.strip().splitlines()]
    lines.append(f"names = {list(ESCAPES)!r}")
    lines.append("""
for number, name in enumerate(names):
    sys.stdout.flush()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write, 1)
        for fd in (read, write):
            if fd != 1: os.close(fd)
        try:
            if globals()[f"attempt_{number}"](): print("escaped", flush=True)
        except (OSError, AttributeError): pass
        except BaseException as error: print(f"broken {error!r}", flush=True)
        os._exit(0)
    os.close(write)
    said = b""
    while part := os.read(read, 4096): said += part
    os.close(read); os.waitpid(child, 0)
    if said: print(json.dumps([name, said.decode()]), flush=True)
print(json.dumps("done"))
""")
    return "\n".join(lines)
