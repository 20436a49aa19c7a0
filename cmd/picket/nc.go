package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
)

func ncCommand() *cli.Command {
	return &cli.Command{
		Name:         "nc",
		Usage:        "join standard input and output to a TCP port of a peer",
		ArgsUsage:    "PEER PORT",
		BashComplete: peerNames,
		Description: "Works with and without a network interface. The end of the input is passed on; the command ends when the peer has written all. Exit status 1\n" +
			"when the connection is refused or cut.\n\nExamples:\n\n   echo PING | picket nc cache-1 6379\n   ssh -o ProxyCommand='picket nc %h %p' db-1",
		Flags: asking(),
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 2, 2, "PEER PORT"); err != nil {
				return err
			}
			port, err := strconv.ParseUint(c.Args().Get(1), 10, 16)
			if err != nil || port == 0 {
				return cliflags.Usage(c, "%q is no port: a number from 1 to 65535", c.Args().Get(1))
			}
			return nc(c, localapi.Dial{Peer: c.Args().First(), Port: uint16(port)})
		},
	}
}

func nc(c *cli.Context, d localapi.Dial) error {
	s, err := client(c).Dial(c.Context, d)
	if err != nil {
		return explain(err)
	}
	defer s.Close()
	go func() { // ends with the process, when standard input does not end before
		if _, err := io.Copy(s, c.App.Reader); err != nil || s.CloseWrite() != nil {
			s.Close()
		}
	}()
	received := make(chan error, 1)
	go func() {
		_, err := io.Copy(c.App.Writer, s)
		received <- err
	}()
	select {
	case <-c.Context.Done():
		return c.Context.Err()
	case err = <-received:
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the connection to %s was cut: by the peer, or by the policy (`picket denials` and `picket why` say)", protocol.Printable(d.Peer))
	}
	return err
}
