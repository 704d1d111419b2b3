package targets

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf16"

	"github.com/go-ldap/ldap/v3"

	"github.com/rotunda-pam/rotunda/sdk"
)

// ADServer is a running Samba as the controller of an Active Directory domain, on a
// loopback address of its own. The domain asks for eight characters of three classes and
// locks an account after five failed logins; the old password ends at once, and there is
// no least age. The administrator is an ordinary user who may reset the passwords of
// accounts below People, and has no other rights.
//
// Each is a copy of the one domain that this machine has: two of them are two controllers
// of which neither hears of what the other was told.
type ADServer struct {
	Host          string // of 127.0.0.0/8
	Address       string // host:636, TLS
	PlainAddress  string // host:389, where StartTLS is asked for
	Domain        string // DN of the domain
	DNS, NetBIOS  string // its names
	People        string // DN of the accounts' organisational unit
	Admin         string // UPN
	AdminPassword sdk.Secret
	CA            []byte            // PEM
	SPKI          [sha256.Size]byte // of the server's key, for pinning
	LogFile       string

	dir          string
	rootPassword sdk.Secret
	proc         *process
}

// ADLocksAfter is how many failed logins lock an account.
const ADLocksAfter = 5

const (
	adRealm  = "ROTUNDA.TEST"
	adDomain = "DC=rotunda,DC=test"
	adPeople = "OU=people," + adDomain
	adRoot   = "Administrator@rotunda.test"
)

// StartAD starts a controller of its own in dir, which must be empty, absent or left over
// from an earlier one. Settings are lines of smb.conf that replace those of their names.
func StartAD(ctx context.Context, dir string, settings ...string) (*ADServer, error) {
	switch {
	case !exists("/usr/sbin/samba") || !exists("/usr/bin/samba-tool") || !exists("/usr/bin/ldapsearch"):
		return nil, fmt.Errorf("%w: install samba-ad-dc, samba-ad-provision, samba-dsdb-modules, samba-vfs-modules, python3-samba and ldap-utils", ErrUnavailable)
	case os.Getuid() != 0:
		return nil, fmt.Errorf("%w: a domain controller needs root", ErrUnavailable)
	}
	if err := prepare(dir); err != nil {
		return nil, err
	}
	secrets, err := copyDomain(ctx, filepath.Join(dir, "dc"))
	if err != nil {
		return nil, err
	}
	s := &ADServer{
		Domain: adDomain, DNS: strings.ToLower(adRealm), NetBIOS: "ROTUNDA", People: adPeople, Admin: "agent@rotunda.test",
		AdminPassword: secrets.agent, rootPassword: secrets.root, LogFile: filepath.Join(dir, "samba.out"), dir: dir,
	}
	for range 3 {
		if err = s.on(ctx, loopback(), settings); !errors.Is(err, errEnded) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// loopback draws an address: a controller's ports cannot be chosen. That two tests draw
// the same one at a time, or one that is in use, ends the second server at once.
func loopback() string {
	return fmt.Sprintf("127.%d.%d.%d", 64+rand.IntN(64), rand.IntN(256), 1+rand.IntN(254))
}

// on starts the server on an address.
func (s *ADServer) on(ctx context.Context, host string, settings []string) error {
	s.Host, s.Address, s.PlainAddress = host, net.JoinHostPort(host, "636"), net.JoinHostPort(host, "389")
	cert, err := newCertificate(s.DNS, host)
	if err != nil {
		return err
	}
	s.CA, s.SPKI = cert.ca, cert.spki
	if err := os.MkdirAll(filepath.Join(s.dir, "run"), 0o700); err != nil {
		return fmt.Errorf("prepare Samba: %w", err)
	}
	for name, b := range map[string][]byte{
		"ca.pem": cert.ca, "server.crt": cert.cert, "server.key": cert.key, "smb.conf": []byte(s.conf(settings)),
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), b, 0o600); err != nil {
			return fmt.Errorf("prepare Samba: %w", err)
		}
	}
	return s.Up(ctx)
}

func (s *ADServer) conf(settings []string) string {
	in := func(name string) string { return filepath.Join(s.dir, name) }
	return strings.Join(append([]string{
		"[global]", "server role = active directory domain controller", "netbios name = DC1", "realm = " + adRealm, "workgroup = " + s.NetBIOS,
		"server services = rpc, ldap, cldap, kdc", "interfaces = " + s.Host + "/8", "bind interfaces only = yes", "disable netbios = yes", "load printers = no",
		"private dir = " + in("dc/private"), "state directory = " + in("dc/state"), "cache directory = " + in("dc/cache"),
		"lock directory = " + in("dc"), "binddns dir = " + in("dc/bind-dns"), "pid directory = " + in("run"), "ncalrpc dir = " + in("run/ncalrpc"),
		"winbindd socket directory = " + in("run/winbindd"), "ntp signd socket directory = " + in("run/ntp_signd"), "log file = " + in("run/log"),
		"tls cafile = " + in("ca.pem"), "tls certfile = " + in("server.crt"), "tls keyfile = " + in("server.key"),
		"old password allowed period = 0",
	}, append(settings, "")...), "\n")
}

// Up starts the server again after Down, on the same address with the same data.
func (s *ADServer) Up(ctx context.Context) error {
	var err error
	s.proc, err = start(s.dir, "samba", nil, "/usr/sbin/samba", "-F", "-M", "single", "--no-process-group", "-s", filepath.Join(s.dir, "smb.conf"))
	if err != nil {
		return err
	}
	err = s.proc.ready(ctx, func(ctx context.Context) error {
		ok, err := s.Accepts(ctx, s.Admin, s.AdminPassword)
		if err == nil && !ok {
			return errors.New("the administrator is not let in")
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%w: %s", errors.Join(err, s.Down()), logTail(s.LogFile))
	}
	return nil
}

// Down stops the server and waits for its end; the data stays.
func (s *ADServer) Down() error {
	err := s.proc.stop(terminate)
	s.proc = nil
	return err
}

// Pid is that of the server's process.
func (s *ADServer) Pid() int { return s.proc.cmd.Process.Pid }

// Stop stops the server and removes its folder.
func (s *ADServer) Stop() error { return errors.Join(s.Down(), Clean(s.dir)) }

// CreateUser makes an account with a password below People and gives its DN. Lines are
// further ones of its LDIF; it has sAMAccountName of the name that is given, unless they
// say another.
func (s *ADServer) CreateUser(ctx context.Context, name string, password sdk.Secret, lines ...string) (string, error) {
	dn := s.DN(name)
	ldif := []string{"dn:: " + b64(dn), "changetype: add", "objectClass: user", "userAccountControl: 512", "unicodePwd:: " + unicodePwd(password)}
	if !strings.HasPrefix(strings.Join(lines, "\n"), "sAMAccountName") {
		ldif = append(ldif, "sAMAccountName:: "+b64(name))
	}
	return dn, s.Modify(ctx, strings.Join(append(append(ldif, lines...), ""), "\n"))
}

// DN is that of an account which CreateUser makes.
func (s *ADServer) DN(name string) string { return "CN=" + ldap.EscapeDN(name) + "," + s.People }

// unicodePwd is a password as the attribute takes it ([MS-ADTS] 3.1.1.3.1.5), in base64.
func unicodePwd(password sdk.Secret) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(`"` + password.ExposeString() + `"`)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return base64.StdEncoding.EncodeToString(b)
}

// SetPassword resets a password as somebody who may do everything.
func (s *ADServer) SetPassword(ctx context.Context, dn string, password sdk.Secret) error {
	return s.Modify(ctx, "dn:: "+b64(dn)+"\nchangetype: modify\nreplace: unicodePwd\nunicodePwd:: "+unicodePwd(password)+"\n")
}

// Set replaces one attribute of an entry as somebody who may do everything.
func (s *ADServer) Set(ctx context.Context, dn, attribute, value string) error {
	return s.Modify(ctx, "dn:: "+b64(dn)+"\nchangetype: modify\nreplace: "+attribute+"\n"+attribute+":: "+b64(value)+"\n")
}

// Modify changes entries as somebody who may do everything; changes are in LDIF.
func (s *ADServer) Modify(ctx context.Context, ldif string) error {
	_, _, err := s.tool(ctx, adRoot, s.rootPassword, ldif, "/usr/bin/ldapmodify")
	return err
}

// Get reads one attribute of an entry as somebody who may do everything; it is empty
// where there is none.
func (s *ADServer) Get(ctx context.Context, dn, attribute string) (string, error) {
	values, err := s.Values(ctx, dn, attribute)
	if len(values) == 0 {
		return "", err
	}
	return values[0], err
}

// Values reads all of an attribute likewise; those that are no plain text are left out.
func (s *ADServer) Values(ctx context.Context, dn, attribute string) (values []string, err error) {
	_, out, err := s.tool(ctx, adRoot, s.rootPassword, "", "/usr/bin/ldapsearch", "-LLL", "-o", "ldif-wrap=no", "-b", dn, "-s", "base", attribute)
	for line := range strings.Lines(out) {
		if value, ok := strings.CutPrefix(line, attribute+": "); ok {
			values = append(values, strings.TrimSpace(value))
		}
	}
	return values, err
}

// Has tells whether there is an entry.
func (s *ADServer) Has(ctx context.Context, dn string) (bool, error) {
	code, _, err := s.tool(ctx, adRoot, s.rootPassword, "", "/usr/bin/ldapsearch", "-LLL", "-b", dn, "-s", "base", "1.1")
	if code == ldap.LDAPResultNoSuchObject {
		return false, nil
	}
	return err == nil, err
}

// Delegate gives an account rights on an entry, in SDDL, in which SID stands for the
// account's. It does as people do who run a controller: by samba-tool on its own files.
func (s *ADServer) Delegate(ctx context.Context, account, dn, sddl string) error {
	own := []string{"-s", filepath.Join(s.dir, "smb.conf"), "-H", filepath.Join(s.dir, "dc", "private", "sam.ldb")}
	out, err := exec.CommandContext(ctx, "/usr/bin/samba-tool", append([]string{"user", "show", account, "--attributes=objectSid"}, own...)...).Output()
	if err != nil {
		return fmt.Errorf("ask for the SID of %s: %w", account, err)
	}
	_, sid, _ := strings.Cut(string(out), "objectSid: ")
	sid, _, _ = strings.Cut(sid, "\n")
	return run(ctx, nil, append([]string{"/usr/bin/samba-tool", "dsacl", "set", "--objectdn=" + dn, "--sddl=" + strings.ReplaceAll(sddl, "SID", sid)}, own...)...)
}

// Failures is how many failed logins the domain counts for an account.
func (s *ADServer) Failures(ctx context.Context, dn string) (int, error) {
	value, err := s.Get(ctx, dn, "badPwdCount")
	if err != nil || value == "" {
		return 0, err
	}
	return strconv.Atoi(value)
}

// Accepts tells whether the server lets an account in with this password, by DN, UPN or
// DOMAIN\name. It asks ldapsearch, so that the judge shares no code with what is judged.
func (s *ADServer) Accepts(ctx context.Context, name string, password sdk.Secret) (bool, error) {
	code, _, err := s.tool(ctx, name, password, "", "/usr/bin/ldapsearch", "-LLL", "-b", "", "-s", "base", "1.1")
	switch {
	case err == nil:
		return true, nil
	case code == ldap.LDAPResultInvalidCredentials:
		return false, nil
	}
	return false, err
}

func (s *ADServer) tool(ctx context.Context, name string, password sdk.Secret, input, program string, args ...string) (int, string, error) {
	return ldapTool(ctx, s.dir, s.Address, name, password, input, program, args...)
}

// domainRecipe fills a fresh domain, with the secrets on standard input: root's and agent's.
const domainRecipe = `
import sys
from samba.auth import system_session
from samba.param import LoadParm
from samba.samdb import SamDB
from samba.sd_utils import SDUtils
from samba.ndr import ndr_unpack
from samba.dcerpc import security
conf, domain, people, threshold = sys.argv[1:]
root, agent = sys.stdin.read().split()
lp = LoadParm()
lp.load(conf)
db = SamDB(url=lp.private_path("sam.ldb"), session_info=system_session(), lp=lp)
db.modify_ldif("dn: %s\nchangetype: modify\nreplace: minPwdAge\nminPwdAge: 0\n-\nreplace: minPwdLength\nminPwdLength: 8\n-\n"
    "replace: lockoutThreshold\nlockoutThreshold: %s\n" % (domain, threshold))
db.setpassword("(sAMAccountName=Administrator)", root)
db.create_ou(people)
db.newuser("agent", agent)
sid = ndr_unpack(security.dom_sid, db.search(domain, expression="(sAMAccountName=agent)", attrs=["objectSid"])[0]["objectSid"][0])
# User-Force-Change-Password, of users.
SDUtils(db).dacl_add_ace(people, "(OA;CIIO;CR;00299570-246d-11d0-a768-00aa006e0529;bf967aba-0de6-11d0-a285-00aa003049e2;%s)" % sid)
`

type domainSecrets struct{ root, agent sdk.Secret }

// provision and peopleOfDomain are what the domain is made with, beside its place.
var (
	provision      = []string{"--realm=" + adRealm, "--domain=ROTUNDA", "--server-role=dc", "--dns-backend=NONE", "--host-name=dc1", "--host-ip=127.0.0.1"}
	peopleOfDomain = []string{adDomain, adPeople, strconv.Itoa(ADLocksAfter)}
)

// copyDomain gives a controller its data. The domain's paths are those of the smb.conf
// that it is started with, so a copy works wherever it is put.
func copyDomain(ctx context.Context, to string) (domainSecrets, error) {
	version, err := installed("/usr/sbin/samba")
	if err != nil {
		return domainSecrets{}, err
	}
	b, err := original{"samba", fmt.Sprint(version, provision, domainRecipe, peopleOfDomain), makeDomain}.copyTo(ctx, "dc", to)
	if err != nil {
		return domainSecrets{}, err
	}
	s := strings.Fields(string(b))
	if len(s) != 2 {
		return domainSecrets{}, errors.New("the test domain that is kept is damaged: remove rotunda-targets-*-kept in the folder of temporary files")
	}
	return domainSecrets{sdk.NewSecret([]byte(s[0])), sdk.NewSecret([]byte(s[1]))}, nil
}

// makeDomain makes the domain, which takes half a minute.
func makeDomain(ctx context.Context, dir string) error {
	// Without a file of its own it copies what stands in /etc/samba.
	if err := os.WriteFile(filepath.Join(dir, "base.conf"), []byte("[global]\n"), 0o600); err != nil {
		return err
	}
	argv := []string{"/usr/bin/samba-tool", "domain", "provision", "--configfile=" + filepath.Join(dir, "base.conf"), "--targetdir=" + filepath.Join(dir, "dc")}
	if err := run(ctx, nil, append(argv, provision...)...); err != nil {
		return err
	}
	// Of every class that the domain asks for.
	secrets := []byte("R" + randomHex(12) + "-z9 A" + randomHex(12) + "-z9\n")
	if err := os.WriteFile(filepath.Join(dir, secretsFile), secrets, 0o600); err != nil {
		return err
	}
	argv = []string{"/usr/bin/python3", "-c", domainRecipe, filepath.Join(dir, "dc/etc/smb.conf")}
	return run(ctx, secrets, append(argv, peopleOfDomain...)...)
}
