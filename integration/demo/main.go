//go:build linux

// Demo builds a Picket network on this machine and shows its main job, a line a step: machines that join by login URL and by
// auth key, a policy kept in Git, a flow that is allowed, one that is refused, a live one that a commit cuts, a machine removed, and a
// coordinator killed without anybody noticing. It exits with a status other than 0 if any of that does not hold, and leaves nothing behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"picket.internal/integration/lab"
)

func main() {
	lab.Helper()
	bin := flag.String("bin", "bin", "folder with the programs")
	keep := flag.Bool("keep", false, "leave the network running and say how to play with it")
	rootless := flag.Bool("rootless", false, "without namespaces and TUN devices, even as root")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin, *keep, *rootless); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin string, keep, rootless bool) (err error) {
	bin, err = filepath.Abs(bin)
	if err != nil {
		return err
	}
	dir, err := newFolder()
	if err != nil {
		return err
	}
	held := false // Ctrl-C is then the ordinary end
	defer func() {
		switch {
		case held:
		case ctx.Err() != nil:
			err = errors.New("interrupted; nothing is left behind")
		case err != nil:
			fmt.Fprintf(os.Stderr, "\nthe logs are in %s until the next run\n", dir)
			return
		}
		os.RemoveAll(dir)
	}()
	if why := lab.CanPrivileged(); why != nil && !rootless {
		fmt.Printf("Rootless, because: %v.\n", why)
		rootless = true
	}
	world, err := lab.New(lab.Config{Bin: bin, Dir: dir, Rootless: rootless})
	if err != nil {
		return err
	}
	defer world.Close()
	s := &show{world: world, dir: dir}
	if err := s.play(ctx); err != nil {
		return err
	}
	if keep {
		s.hold(ctx)
		held = true
		fmt.Println("\nNothing is left behind.")
		return nil
	}
	fmt.Printf("\nAll of it held, in %.1f s. Nothing is left behind.\n", time.Since(s.began).Seconds())
	return nil
}

// folderPrefix begins the name of every run's folder; the process id after it tells whose may be removed.
const folderPrefix = "picket-demo-"

// newFolder makes this run's folder, and removes those of runs that are over.
func newFolder() (string, error) {
	old, _ := filepath.Glob(filepath.Join(os.TempDir(), folderPrefix+"*"))
	for _, dir := range old {
		digits, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), folderPrefix), "-")
		if pid, err := strconv.Atoi(digits); err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			os.RemoveAll(dir)
		}
	}
	return os.MkdirTemp("", fmt.Sprintf("%s%d-", folderPrefix, os.Getpid()))
}

// show is the demo as it goes on.
type show struct {
	world       *lab.World
	dir         string
	began       time.Time
	steps       int
	coordinator *lab.Coordinator
	policy      *lab.PolicyRepo
	alice, bob  *laptop
	db          *lab.Node
	port        string // the database's
	dbAddr      string
	open        *lab.Flow // alice's connection to the database
}

// laptop is a person with a machine.
type laptop struct {
	*lab.Node
	person *lab.Person
}

// step is one line of the demo: done says what was seen.
type step struct {
	title string
	do    func(ctx context.Context) (done string, err error)
}

func (s *show) play(ctx context.Context) error {
	s.began = time.Now()
	for _, st := range s.script() {
		s.steps++
		fmt.Printf("%2d. %s\n", s.steps, st.title)
		ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
		done, err := st.do(ctx)
		cancel()
		if err != nil {
			return fmt.Errorf("step %d (%s): %w", s.steps, st.title, err)
		}
		fmt.Printf("      %s\n", done)
	}
	return nil
}

func (s *show) script() []step {
	return []step{
		{"A coordinator starts; its policy is a file in a Git repository.", s.startCoordinator},
		{"Alice follows the setup link: password, authenticator, recovery codes. She invites Bob.", s.setUpPeople},
		{"Alice's laptop joins: the terminal shows a link and a code, she types the code into the page.", s.joinAlice},
		{"Bob's laptop joins. He mistypes the code first.", s.joinBob},
		{"A database server joins by itself, with an auth key that works once.", s.joinServer},
		{"The policy lets Alice reach the database, so she does.", s.allowed},
		{"Bob may only ping it: his connection is refused at once, with the reason.", s.refused},
		{"A commit with a mistake is not taken; the old policy stays.", s.badCommit},
		{"A commit takes Alice's access away while her connection is open.", s.cutByCommit},
		{"Another commit gives it back: it works again at once.", s.restored},
		{"The coordinator is killed (kill -9) and started again; Alice's connection does not notice.", s.coordinatorKilled},
		{"Bob's laptop is removed from the network.", s.removed},
	}
}

// hold leaves the network running until interrupted.
func (s *show) hold(ctx context.Context) {
	fmt.Printf("\nThe network goes on until you press Ctrl-C. To play with it:\n\n")
	enter := func(h *lab.Host) string {
		if ns := h.Namespace(); ns != "" {
			return "ip netns exec " + ns + " "
		}
		return ""
	}
	fmt.Printf("  pages       %s  (sign in as %s, password %q,\n              recovery code %s)\n", s.coordinator.URL, s.alice.person.Login, s.alice.person.Password, s.alice.person.Recovery[0])
	if ns := s.coordinator.Host.Namespace(); ns != "" {
		fmt.Printf("              they are inside the namespace: %scurl -k %s\n", enter(s.coordinator.Host), s.coordinator.URL)
	}
	fmt.Printf("  policy      cd %s, edit policy.hujson, git commit -am \"…\"\n", s.policy.Dir)
	fmt.Printf("  operator    %s nodes list\n", s.coordinator.Command())
	fmt.Printf("  alice       %s peers\n", s.alice.Command())
	fmt.Printf("  server      %s peers\n", s.db.Command())
	<-ctx.Done()
}
