package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/urfave/cli/v2"

	"picket.internal/acl"
	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator/protocol"
)

func aclDirectoryCommand() *cli.Command {
	return &cli.Command{
		Name:  "directory",
		Usage: "write down who and what exists in a network, for the other commands",
		Description: "It is what --directory of the other commands takes: users with their roles, nodes with owner or tags and addresses, and no keys. " +
			"The token is one for policy:read.\n\n" +
			"Exit status 2 when the coordinator cannot be asked; then nothing is written.\n\nExamples:\n\n" +
			"   picket acl directory --coordinator 'https://picket.example.com:8443#FINGERPRINT' --token-file token --output directory.json\n" +
			"   PICKET_TOKEN=… picket acl directory --coordinator 'https://…#…'",
		Flags: append(coordinatorFlags(), &cli.StringFlag{Name: "output", Usage: "write `FILE`, whole or not at all, not standard output"}),
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 0, 0, ""); err != nil {
				return err
			}
			if err := need(c, "coordinator"); err != nil {
				return err
			}
			a, err := askerIfGiven(c)
			if err != nil {
				return err
			}
			d, err := a.directory()
			if err != nil {
				return err
			}
			return writeDirectory(c, d)
		},
	}
}

func writeDirectory(c *cli.Context, d *acl.Directory) error {
	text, err := acl.FormatDirectory(d)
	if err != nil {
		return err
	}
	path := c.String("output")
	if path == "" {
		_, err := c.App.Writer.Write(text)
		return err
	}
	if err := writeFile(path, text); err != nil {
		return fmt.Errorf("write %s: %s", fileName(path), protocol.Printable(err.Error()))
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s: %s of %s\n", fileName(path), plural(len(d.Nodes), "node"), plural(len(d.Users), "user"))
	return err
}

// writeFile is replaceFile for a file that need not be there.
func writeFile(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return replaceFile(path, content)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}
