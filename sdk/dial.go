package sdk

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
)

// dialer reaches the job's addresses through the agent; dial.go of the wire
// contract has the frames.
type dialer struct {
	socket string
	token  []byte
}

func (d dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: named{network, address}, Err: err}
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	req := pluginv1.DialRequest{Network: network, Address: address}
	if t, ok := ctx.Deadline(); ok {
		req.Timeout = max(time.Until(t), time.Millisecond)
	}
	frame, err := pluginv1.AppendDialRequest(append(make([]byte, 0, 512), d.token...), req)
	if err != nil {
		return fail(&Error{Class: ClassInvalid, Reason: pluginv1.DialRefused.Reason(), Err: err})
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", d.socket)
	if err != nil {
		return fail(orContext(ctx, err))
	}
	uc := conn.(*net.UnixConn)

	// A context that ends closes the connection, which tells the agent to give up.
	stop := context.AfterFunc(ctx, func() { _ = uc.SetDeadline(time.Unix(1, 0)) })
	status, remote, err := ask(uc, frame)
	if !stop() {
		err = ctx.Err()
	}
	if err == nil && status != pluginv1.DialOK {
		err = &Error{Class: dialClass(status), Reason: status.Reason()}
	}
	if err != nil {
		_ = uc.Close()
		return fail(orContext(ctx, err))
	}
	return &targetConn{UnixConn: uc, remote: remoteAddr(network, remote)}, nil
}

func dialClass(s pluginv1.DialStatus) Class {
	if s == pluginv1.DialDenied {
		return ClassPermission
	}
	return ClassUnreachable
}

func ask(c io.ReadWriter, frame []byte) (pluginv1.DialStatus, string, error) {
	if _, err := c.Write(frame); err != nil {
		return 0, "", err
	}
	return pluginv1.ReadDialReply(c)
}

// orContext prefers the context's error, as net.Dialer does, and gives the agent's
// hanging up a class.
func orContext(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if e := (*Error)(nil); errors.As(err, &e) {
		return err
	}
	return &Error{Class: ClassUnreachable, Reason: pluginv1.DialClosed.Reason(), Err: err}
}

// targetConn is the Unix connection with the target's address: some drivers, pgx for
// one, dial RemoteAddr again to cancel a query.
type targetConn struct {
	*net.UnixConn
	remote net.Addr
}

func (c *targetConn) RemoteAddr() net.Addr { return c.remote }

type named struct{ network, address string }

func (n named) Network() string { return n.network }
func (n named) String() string  { return n.address }

func remoteAddr(network, address string) net.Addr {
	if ap, err := netip.ParseAddrPort(address); err == nil {
		return net.TCPAddrFromAddrPort(ap)
	}
	return named{network, address}
}
