package targets

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Server is one of the servers that this package starts.
type Server string

// The servers.
const (
	PostgreSQL Server = "PostgreSQL"
	OpenSSHD   Server = "OpenSSH"
	Redis      Server = "Redis"
	MariaDB    Server = "MariaDB"
	OpenLDAP   Server = "OpenLDAP"
	SambaAD    Server = "Samba AD"

	// Of the second tier: its tests are run on request only, see [TestAll].
	FerretDB   Server = "FerretDB"  // speaks MongoDB's protocol
	SeaweedFS  Server = "SeaweedFS" // has access keys, by IAM's protocol
	RabbitMQ   Server = "RabbitMQ"  // examples/plugin-rabbitmq starts it by itself
	Kubernetes Server = "kube-apiserver"
	NginxLight Server = "nginx"
	FRR        Server = "FRRouting" // whose test starts it by itself
)

// SecondTier are the servers that take long to install, build or start.
var SecondTier = []Server{FerretDB, RabbitMQ, SeaweedFS, Kubernetes, NginxLight, FRR}

// needs are the programs and the Debian packages that bring them.
var needs = []struct {
	server Server
	pkg    string
	have   func() bool
}{
	{OpenSSHD, "openssh-server", file("/usr/sbin/sshd")},
	{OpenSSHD, "sudo", file("/usr/bin/sudo")},
	{PostgreSQL, "postgresql", func() bool { _, err := postgresBin(); return err == nil }},
	{Redis, "redis-server", file("/usr/bin/redis-server")},
	{MariaDB, "mariadb-server", file("/usr/sbin/mariadbd")},
	{MariaDB, "mariadb-client", file("/usr/bin/mariadb")},
	{OpenLDAP, "slapd", file("/usr/sbin/slapd")},
	{OpenLDAP, "ldap-utils", file("/usr/bin/ldapwhoami")},
	{SambaAD, "samba-ad-dc", file("/usr/sbin/samba")},
	{SambaAD, "samba-ad-provision", file("/usr/share/samba/setup/provision.ldif")},
	{SambaAD, "samba-dsdb-modules", file("/usr/share/doc/samba-dsdb-modules")},
	{SambaAD, "samba-vfs-modules", file("/usr/share/doc/samba-vfs-modules")},
	{SambaAD, "python3-samba", file("/usr/lib/python3/dist-packages/samba/netcmd/main.py")},
	{SambaAD, "ldap-utils", file("/usr/bin/ldapwhoami")},
	{FerretDB, "python3-pymongo", file("/usr/lib/python3/dist-packages/pymongo")},
	{SeaweedFS, "curl", file("/usr/bin/curl")},
	{Kubernetes, "etcd-server", file("/usr/bin/etcd")},
	{NginxLight, "nginx-light", file(nginxProgram)},
	{FRR, "frr", file("/usr/lib/frr/ripd")},
	{RabbitMQ, "rabbitmq-server", file("/usr/lib/rabbitmq/bin/rabbitmq-server")},
}

// installLock is held by who installs, and by Install while it looks whether it has to.
const installLock = "install.lock"

func file(name string) func() bool { return func() bool { return exists(name) } }

// Install installs the Debian packages of these servers that are missing, and builds what
// Debian has no package of. It says what it is about to do first. Several processes may
// call it at once. Without root or apt-get it fails with [ErrUnavailable], which names what
// a person should install.
func Install(ctx context.Context, log func(string), servers ...Server) error {
	if err := installPackages(ctx, log, servers); err != nil {
		return err
	}
	for _, s := range servers {
		if r, ok := built[s]; ok {
			if err := r.build(ctx, log); err != nil {
				return err
			}
		}
	}
	return nil
}

// Installed tells whether this machine has a server.
func Installed(s Server) bool {
	if r, ok := built[s]; ok {
		if program, err := r.program(); err != nil || !exists(program) {
			return false
		}
	}
	return len(missing([]Server{s})) == 0
}

func installPackages(ctx context.Context, log func(string), servers []Server) error {
	if os.Getuid() != 0 || !exists("/usr/bin/apt-get") {
		if packages := missing(servers); len(packages) > 0 {
			return fmt.Errorf("%w: install %s (needs root and apt-get)", ErrUnavailable, strings.Join(packages, " "))
		}
		return nil
	}
	root, err := base()
	if err != nil {
		return err
	}
	// Before the look at what is there: a package that another process installs has its
	// program some seconds before it has its user.
	unlock, err := lockFile(filepath.Join(root, installLock), true)
	if err != nil {
		return err
	}
	defer unlock()
	packages := missing(servers)
	if len(packages) == 0 {
		return nil
	}
	log("installing the test servers: apt-get install " + strings.Join(packages, " "))
	apt := []string{"apt-get", "-q", "-o", "DPkg::Lock::Timeout=600"}
	if err := run(ctx, nil, append(slices.Clone(apt), "update")...); err != nil {
		return fmt.Errorf("install test servers: %w", err)
	}
	install := append(slices.Clone(apt), "install", "-y", "--no-install-recommends")
	if err := run(ctx, nil, append(install, packages...)...); err != nil {
		return fmt.Errorf("install test servers: %w", err)
	}
	if left := missing(servers); len(left) > 0 {
		return fmt.Errorf("%w: apt-get ended well but %s is still missing", ErrUnavailable, strings.Join(left, " "))
	}
	return nil
}

func missing(servers []Server) []string {
	var out []string
	for _, n := range needs {
		if slices.Contains(servers, n.server) && !slices.Contains(out, n.pkg) && !n.have() {
			out = append(out, n.pkg)
		}
	}
	return out
}

func exists(file string) bool { _, err := os.Stat(file); return err == nil }

// postgresBin is the folder of the newest PostgreSQL: Debian keeps initdb and
// postgres out of the path.
func postgresBin() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	slices.SortFunc(found, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b) // 9 before 15
		}
		return strings.Compare(a, b)
	})
	if len(found) > 0 {
		return filepath.Dir(found[len(found)-1]), nil
	}
	initdb, err := exec.LookPath("initdb")
	if err != nil {
		return "", fmt.Errorf("%w: install postgresql", ErrUnavailable)
	}
	return filepath.Dir(initdb), nil
}
