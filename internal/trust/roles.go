package trust

import (
	"fmt"
	"strings"
)

// Roles is a set of rights on a folder; on folder zero, on all folders and the
// organisation.
type Roles uint32

// The roles. Admin counts on folder zero only.
const (
	Read          Roles = 1 << iota // open records
	Edit                            // change records, sign statements
	Operate                         // sign commands, enable mandates, use a resource's administrator
	Share                           // grant what one has; includes Read
	ApproveScript                   // let a script into a record of the folder
	Admin                           // members, agents, pools, apps, plugins, policy

	AllRoles = Read | Edit | Operate | Share | ApproveScript | Admin
)

var roleNames = []struct {
	role Roles
	name string
}{
	{Read, "read"},
	{Edit, "edit"},
	{Operate, "operate"},
	{Share, "share"},
	{ApproveScript, "approve_script"},
	{Admin, "admin"},
}

// Has reports whether r holds every role of want.
func (r Roles) Has(want Roles) bool { return r.full()&want == want }

// full spells out that Share includes Read.
func (r Roles) full() Roles {
	if r&Share != 0 {
		r |= Read
	}
	return r
}

// String lists the roles as "read,edit,operate,share,approve_script,admin";
// "none" for none.
func (r Roles) String() string {
	if r == 0 {
		return "none"
	}
	var names []string
	for _, n := range roleNames {
		if r&n.role != 0 {
			names = append(names, n.name)
		}
	}
	if rest := r &^ AllRoles; rest != 0 {
		names = append(names, fmt.Sprintf("0x%x", uint32(rest)))
	}
	return strings.Join(names, ",")
}

// ParseRoles reads what String writes; "all" is every role.
func ParseRoles(s string) (Roles, error) {
	switch s {
	case "", "none":
		return 0, nil
	case "all":
		return AllRoles, nil
	}
	var r Roles
next:
	for _, part := range strings.Split(s, ",") {
		for _, n := range roleNames {
			if n.name == strings.TrimSpace(part) {
				r |= n.role
				continue next
			}
		}
		return 0, fmt.Errorf("no role %q; roles are %s", part, AllRoles)
	}
	return r, nil
}
