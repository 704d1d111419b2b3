package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
)

// parts are what a command cannot go without, each measured alone.
type parts struct {
	CryptoMS  float64 `json:"cryptography_ms"`  // of a command and its reply: two seals, opens, signatures, checks
	DurableMS float64 `json:"durable_write_ms"` // 4 kB
	// Of one command at the most in flight, by program; of the echo likewise.
	CPUMS  map[string]float64 `json:"cpu_ms"`
	EchoMS map[string]float64 `json:"echo_cpu_ms"`
}

const repetitions = 200

func measureParts(dir string) (p parts, err error) {
	key, err := seal.GenerateSealKey()
	if err != nil {
		return p, err
	}
	pub, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return p, err
	}
	plain, org := make([]byte, 400), seal.Digest{1}
	before := ownCPU()
	for range 2 * repetitions {
		sig := seal.Sign(private, seal.KindCommand, org, plain)
		box, err := seal.SealTo(key.Public(), seal.Route{}, plain)
		if err != nil {
			return p, err
		}
		if _, err := seal.OpenFrom(key, seal.Route{}, box); err != nil {
			return p, err
		}
		if !seal.Verify(pub, seal.KindCommand, org, plain, sig) {
			return p, errors.New("a signature does not hold")
		}
	}
	p.CryptoMS = ms(ownCPU()-before) / repetitions

	f, err := os.Create(filepath.Join(dir, "durable"))
	if err != nil {
		return p, err
	}
	defer f.Close()
	var took []time.Duration
	for range repetitions {
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			return p, err
		}
		began := time.Now()
		if err := f.Sync(); err != nil {
			return p, err
		}
		took = append(took, time.Since(began))
	}
	p.DurableMS = ms(quantile(took, 0.5))
	return p, nil
}

func ownCPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// tick is what Linux counts processor time in (USER_HZ).
const tick = 10 * time.Millisecond

// cpuOf is the processor time that a process has used; zero where the system does not tell.
func cpuOf(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name, in parentheses, may hold anything: the fields are counted behind it.
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(string(f[11]))
	system, _ := strconv.Atoi(string(f[12]))
	return time.Duration(user+system) * tick
}
