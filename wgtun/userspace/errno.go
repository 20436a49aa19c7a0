package userspace

import (
	"errors"
	"net"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// errnos are the stack's errors that programs tell apart, as the errors a kernel's socket would give.
var errnos = []struct {
	text  string
	errno syscall.Errno
}{
	{(&tcpip.ErrConnectionRefused{}).String(), syscall.ECONNREFUSED},
	{(&tcpip.ErrConnectionReset{}).String(), syscall.ECONNRESET},
	{(&tcpip.ErrConnectionAborted{}).String(), syscall.ECONNABORTED},
	{(&tcpip.ErrAborted{}).String(), syscall.ECONNABORTED},
	{(&tcpip.ErrHostUnreachable{}).String(), syscall.EHOSTUNREACH},
	{(&tcpip.ErrNetworkUnreachable{}).String(), syscall.ENETUNREACH},
	{(&tcpip.ErrTimeout{}).String(), syscall.ETIMEDOUT},
	{(&tcpip.ErrMessageTooLong{}).String(), syscall.EMSGSIZE},
}

// errnoOf turns an error of the stack into one that errors.Is can match.
func errnoOf(err tcpip.Error) error { return errnoByText(err.String()) }

func errnoByText(text string) error {
	for _, e := range errnos {
		if e.text == text {
			return e.errno
		}
	}
	return errors.New(text)
}

// mapped replaces the bare text that gonet keeps in an OpError by the errno that it stands for.
func mapped(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil && !op.Timeout() {
		op.Err = errnoByText(op.Err.Error())
	}
	return err
}
