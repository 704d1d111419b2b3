package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

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
