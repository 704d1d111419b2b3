//go:build !linux

package main

import (
	"context"

	"github.com/rotunda-pam/rotunda/sdk"
)

func stopSelf() { select {} }

func probe(context.Context, sdk.Host, string) string { return "probes are for linux" }
