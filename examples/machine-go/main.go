// Machine-go reads a record with the public secrets-manager SDK for Go, which is used as
// it is: from a Rotunda server, with the configuration that "rotunda app config" made.
//
//	machine-go CONFIGURATION TITLE
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/keeper-security/secrets-manager-go/core"
	"github.com/keeper-security/secrets-manager-go/core/logger"

	"github.com/rotunda-pam/rotunda/ksmkey"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: machine-go CONFIGURATION TITLE")
	}
	file, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	logger.SetOutput(os.Stderr) // the SDK logs to standard output, where the secret goes
	configuration := strings.TrimSpace(string(file))

	// The SDK knows the vendor's server keys alone: this adds the one in the configuration.
	if err := ksmkey.RegisterConfiguration(configuration); err != nil {
		log.Fatal(err)
	}
	config := core.NewMemoryKeyValueStorage(configuration)
	client := core.NewSecretsManager(&core.ClientOptions{Config: config}, dialer(config.Get(core.KEY_HOSTNAME)))
	if client == nil {
		log.Fatal("the SDK takes no such configuration")
	}

	records, err := client.GetSecretsByTitle(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range records {
		// Not r.Password(), which is empty for every record that is no login.
		fmt.Println(r.GetFieldValueByType("password"))
	}
}

// dialer brings the SDK to a port of our own: it calls 443, whatever the configuration says.
// A server on 443 needs none of this.
func dialer(address string) **core.Context {
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(address, "443")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	c := &core.Context{Transport: transport}
	return &c
}
