package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

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
		Flags: append(coordinatorFlags(), &cli.StringFlag{Name: "output", Usage: "write to `FILE`, whole or not at all; without it, to standard output"}),
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
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return replaceFile(path, content)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".picket-directory-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // once it is renamed there is nothing under that name
	if err := fill(f, content, 0o644); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
