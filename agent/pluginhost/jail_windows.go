package pluginhost

import (
	"os/exec"
	"unsafe"

	"golang.org/x/sys/windows"
)

// jail on Windows is a job object that ends its processes when the agent's handle
// closes, and so when the agent dies; descriptors cannot be inherited there, so there
// is no death pipe. Between start and assignment the plugin runs outside of it, a
// moment in which only the agent's own death could leave it behind.
type jail struct{ iso Isolation }

func newJail(UserIDs, bounds) *jail {
	return &jail{Isolation{
		Note: "plugins are not isolated on Windows: they run as the agent's own user; give the agent's service an account of its own",
	}}
}

func (*jail) user() (uid int, release func(), err error) { return -1, func() {}, nil }

func (*jail) start(cmd *exec.Cmd, _ confinement) (*child, error) {
	job, err := windows.CreateJobObject(nil, nil)
	if err != nil {
		return nil, err
	}
	info := windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION{}
	info.BasicLimitInformation.LimitFlags = windows.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
	_, err = windows.SetInformationJobObject(job, windows.JobObjectExtendedLimitInformation,
		uintptr(unsafe.Pointer(&info)), uint32(unsafe.Sizeof(info)))
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		_ = windows.CloseHandle(job)
		return nil, err
	}
	ch := &child{cmd: cmd, exited: make(chan struct{})}
	ch.kill = func() {
		_ = windows.TerminateJobObject(job, 1)
		_ = cmd.Process.Kill()
	}
	p, err := windows.OpenProcess(windows.PROCESS_SET_QUOTA|windows.PROCESS_TERMINATE, false, uint32(cmd.Process.Pid))
	if err == nil {
		err = windows.AssignProcessToJobObject(job, p)
		_ = windows.CloseHandle(p)
	}
	if err != nil {
		_ = cmd.Process.Kill()
	}
	go func() {
		defer close(ch.exited)
		_ = cmd.Wait()
		_ = windows.CloseHandle(job)
	}()
	if err != nil {
		<-ch.exited
		return nil, err
	}
	return ch, nil
}
