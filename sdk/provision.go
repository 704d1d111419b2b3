package sdk

import "context"

// Provisioner makes accounts that live for a while, and removes them again. Declared by
// Manifest.Provision. Both verbs must be repeatable with the same Account.Name, and leave
// alone every account that Provision has not made: Unchanged, class conflict (ProvisionTwice).
// So the target has to remember which those are, in a comment or the like.
type Provisioner interface {
	// Provision brings the target to have the account, with the candidate as its secret. What
	// the account may do, and until when, its Attrs say: see [GroupsAttr] and [UntilAttr]. An
	// account that is made again has that, and no longer what it was given before. Once the
	// account may have been made, what fails is neither Unchanged nor NotSent.
	Provision(context.Context, OpenRequest, ApplyRequest) (ApplyResponse, error)
	// Deprovision removes it. That it is gone already is a success.
	Deprovision(context.Context, OpenRequest, Account) (ApplyResponse, error)
}

// Attributes of an account that is to be made.
const (
	GroupsAttr = "groups" // groups or roles that it shall be in, separated by commas
	UntilAttr  = "until"  // when the target itself shall let nobody in with it any more: RFC 3339
)
