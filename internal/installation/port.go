package installation

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// FreePort finds a port of the loopback that nobody listens on, below those that the kernel
// gives to whoever names none (32768 and up on Linux): nobody takes it by chance before it is used.
func FreePort() (int, error) {
	var err error
	for range 100 {
		port := 20_000 + rand.N(12_000)
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, err
}
