package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rotunda-pam/rotunda/sdk"
)

func stopSelf() { select {} }

// probe tries one way out, and tells what came of it.
func probe(ctx context.Context, h sdk.Host, arg string) string {
	what, arg, _ := strings.Cut(arg, " ")
	switch what {
	case "connect": // "network address"
		network, address, _ := strings.Cut(arg, " ")
		d := net.Dialer{Timeout: 2 * time.Second}
		c, err := d.Dial(network, address)
		if err == nil {
			_ = c.Close()
		}
		return short(err)
	case "interfaces":
		var up []string
		all, _ := net.Interfaces()
		for _, i := range all {
			if i.Flags&net.FlagUp != 0 {
				up = append(up, i.Name)
			}
		}
		return fmt.Sprint(len(up), " up")
	case "environ":
		return strings.Join(os.Environ(), " ; ")
	case "descriptors":
		// Not by /proc, which may be shut.
		var open []string
		for fd := range 256 {
			var st unix.Stat_t
			if unix.Fstat(fd, &st) == nil {
				open = append(open, fmt.Sprintf("%d:%o", fd, st.Mode&unix.S_IFMT))
			}
		}
		return strings.Join(open, " ")
	case "identity":
		nnp, _ := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
		groups, _ := os.Getgroups()
		return fmt.Sprintf("uid %d gid %d groups %d nnp %d pid %d ppid %d", os.Getuid(), os.Getgid(), len(groups), nnp, os.Getpid(), os.Getppid())
	case "open":
		f, err := os.Open(arg)
		if err == nil {
			_ = f.Close()
		}
		return short(err)
	case "write":
		return short(os.WriteFile(arg, []byte("x"), 0o600))
	case "tmp":
		return os.Getenv("TMPDIR")
	case "memory": // "pid"
		return memory(arg)
	case "setns": // "pid"
		return setns(arg)
	case "reconnect": // "allowed forbidden": the dialled descriptor must not lead anywhere else
		return reconnect(ctx, h, arg)
	case "grow", "shared", "memfd", "stack": // "MiB"
		return memoryBy(what, arg)
	case "sealed": // "MiB", which are not writable any more
		return sealed(arg)
	case "reserve": // "MiB" of addresses
		_, err := unix.Mmap(-1, 0, mebibytes(arg), unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
		return short(err)
	case "raise-stack":
		return short(unix.Setrlimit(unix.RLIMIT_STACK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}))
	case "semaphores":
		_, _, e := unix.Syscall(unix.SYS_SEMGET, unix.IPC_PRIVATE, 1, 0o600)
		return short(errorOf(e))
	case "sockets": // "MiB", sent and never read
		return sockets(arg)
	case "aio":
		var context uintptr
		_, _, e := unix.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&context)), 0)
		return short(errorOf(e))
	case "fill": // "MiB", in files of 1 MiB
		return fill(arg)
	case "file": // "MiB", in one file
		return short(write(filepath.Join(os.TempDir(), "one"), mebibytes(arg)))
	case "descriptors-to": // "number"
		return descriptors(arg)
	case "processes": // "number"
		return processes(arg)
	case "burn": // all processors, from now on
		for range runtime.NumCPU() {
			go func() {
				for n := 0; ; n++ {
					runtime.KeepAlive(n)
				}
			}()
		}
		return "burning"
	case "socket": // "family"
		family, _ := strconv.Atoi(arg)
		fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
		if err == nil {
			_ = unix.Close(fd)
		}
		return short(err)
	case "fastopen": // "address": data with the first packet, and no call of connect
		return fastopen(arg)
	case "child": // leaves a process behind that holds standard error
		cmd := exec.Command("/bin/sleep", "3600")
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return short(cmd.Start())
	}
	return "no such probe"
}

func short(err error) string {
	var e syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &e):
		return unix.ErrnoName(e)
	default:
		return err.Error()
	}
}

// memory tries the ways into another process.
func memory(pid string) string {
	var n int
	_, _ = fmt.Sscan(pid, &n)
	_, e1 := os.Open("/proc/" + pid + "/mem")
	_, e2 := os.ReadFile("/proc/" + pid + "/environ")
	_, e3 := os.ReadDir("/proc/" + pid + "/fd")
	_, e4 := os.Open("/proc/" + pid + "/root/etc/passwd")
	b := make([]byte, 8)
	_, e5 := unix.ProcessVMReadv(n, []unix.Iovec{{Base: &b[0], Len: 8}}, []unix.RemoteIovec{{Base: 0x400000, Len: 8}}, 0)
	pfd, e6 := unix.PidfdOpen(n, 0)
	if e6 == nil {
		_, e6 = unix.PidfdGetfd(pfd, 1, 0)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	e7 := unix.PtraceAttach(n)
	if e7 == nil {
		_, _ = unix.Wait4(n, nil, unix.WALL, nil)
		_ = unix.PtraceDetach(n)
	}
	return fmt.Sprintf("mem %s environ %s fd %s root %s vm %s pidfd %s kill %s ptrace %s",
		short(e1), short(e2), short(e3), short(e4), short(e5), short(e6), short(unix.Kill(n, 0)), short(e7))
}

func setns(pid string) string {
	out := make(chan string)
	go func() {
		runtime.LockOSThread() // the thread is lost on purpose
		fd, err := unix.Open("/proc/"+pid+"/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
		}
		out <- short(err)
	}()
	return <-out
}

func reconnect(ctx context.Context, h sdk.Host, arg string) string {
	allowed, forbidden, _ := strings.Cut(arg, " ")
	c, err := h.Dialer.DialContext(ctx, "tcp", allowed)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = c.Close() }()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return err.Error()
	}
	to, err := net.ResolveTCPAddr("tcp", forbidden)
	if err != nil {
		return err.Error()
	}
	sa := &unix.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}
	out := ""
	_ = raw.Control(func(fd uintptr) { out = short(unix.Connect(int(fd), sa)) })
	return out
}

func mebibytes(s string) int {
	n, _ := strconv.Atoi(s)
	return n << 20
}

var held [][]byte // so that it is not given back

// memoryBy takes memory and writes to each page of it.
func memoryBy(way, arg string) string {
	size, flags, fd := mebibytes(arg), unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, -1
	switch way {
	case "shared":
		flags = unix.MAP_SHARED | unix.MAP_ANONYMOUS
	case "stack":
		flags |= unix.MAP_GROWSDOWN
	case "memfd":
		var err error
		if fd, err = unix.MemfdCreate("x", 0); err != nil {
			return short(err)
		}
		if err := unix.Ftruncate(fd, int64(size)); err != nil {
			return short(err)
		}
		flags = unix.MAP_SHARED
	}
	b, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		return short(err)
	}
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	held = append(held, b)
	return "ok"
}

// sealed takes memory, writes to it, and gives up the right to: it counts as private
// writable memory no more.
func sealed(arg string) string {
	for range mebibytes(arg) >> 20 {
		b, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return short(err)
		}
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		if err := unix.Mprotect(b, unix.PROT_READ); err != nil {
			return short(err)
		}
		held = append(held, b)
	}
	return "ok"
}

func errorOf(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

func write(path string, size int) error {
	signal.Ignore(syscall.SIGXFSZ)
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	for n := 0; n < size && err == nil; n += len(block) {
		_, err = f.Write(block)
	}
	return errors.Join(err, f.Close())
}

func fill(arg string) string {
	for i := range mebibytes(arg) >> 20 {
		if err := write(filepath.Join(os.TempDir(), fmt.Sprint("fill", i)), 1<<20); err != nil {
			return short(err)
		}
	}
	return "ok"
}

func descriptors(arg string) string {
	n, _ := strconv.Atoi(arg)
	for range n {
		fd, err := unix.Dup(0)
		if err != nil {
			return short(err)
		}
		defer func() { _ = unix.Close(fd) }()
	}
	return "ok"
}

// processes starts them, and ends them when it knows.
func processes(arg string) string {
	n, _ := strconv.Atoi(arg)
	for range n {
		cmd := exec.Command("/bin/sleep", "3600")
		if err := cmd.Start(); err != nil {
			return short(err)
		}
		defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	}
	return "ok"
}

func fastopen(arg string) string {
	to, err := net.ResolveTCPAddr("tcp", arg)
	if err != nil {
		return err.Error()
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return short(err)
	}
	defer func() { _ = unix.Close(fd) }()
	return short(unix.Sendto(fd, []byte("QUIT\n"), unix.MSG_FASTOPEN, &unix.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}))
}

// sockets has the kernel hold that much for those who never read it.
func sockets(arg string) string {
	left := mebibytes(arg)
	part := make([]byte, 1<<20)
	for left > 0 {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return short(err)
		}
		if err := unix.SetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20); err != nil {
			return short(err)
		}
		for {
			n, err := unix.Write(pair[0], part)
			if left -= n; err != nil || n == 0 || left <= 0 {
				break
			}
		}
	}
	return "ok"
}
