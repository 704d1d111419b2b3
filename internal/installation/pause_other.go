//go:build !unix

package installation

import "errors"

// Pause stops the process where it is, until Resume.
func (p *Process) Pause() error { return errors.ErrUnsupported }

// Resume lets it go on.
func (p *Process) Resume() error { return errors.ErrUnsupported }
