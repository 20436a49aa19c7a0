// Command greeter is a web server on the overlay that greets callers by name.
//
//	PICKET_AUTH_KEY=… greeter -coordinator 'https://picket.example.com:8443#FINGERPRINT' -state ./greeter-state
//
// Without an auth key it prints the page on which a person lets it in.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"html"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"picket.internal/picket"
)

func main() {
	coordinator := flag.String("coordinator", "", "the `JOIN` string that the coordinator prints")
	state := flag.String("state", "greeter-state", "keep the node's keys in `DIR`")
	name := flag.String("name", "greeter", "ask to be called `NAME`")
	address := flag.String("listen", ":80", "the overlay's `HOST:PORT` to listen at")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	config := picket.Config{
		Dir: *state, Coordinator: *coordinator, Name: *name,
		AuthKey: os.Getenv("PICKET_AUTH_KEY"), // not a flag, which every user of this host could see
		OnLogin: func(url, code string) { fmt.Printf("To let this server in, open %s and type %s\n", url, code) },
	}
	if err := run(ctx, config, *address); err != nil {
		log.Fatal("greeter: ", err)
	}
}

// shutdownTime bounds how long requests may go on when the server is told to end.
const shutdownTime = 5 * time.Second

// run serves until ctx ends.
func run(ctx context.Context, c picket.Config, address string) error {
	n, err := picket.Start(ctx, c)
	if err != nil {
		return err
	}
	defer n.Close()
	l, err := n.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: greet(n), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	fmt.Printf("Listening at %v, %s\n", n.Addresses(), l.Addr())
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	err = server.Shutdown(ending)
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// greet answers each caller by name. Whoever has no name is told nothing.
func greet(n *picket.Node) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, err := n.WhoIs(r.RemoteAddr)
		if err != nil {
			http.Error(w, "nobody knows who you are", http.StatusForbidden)
			return
		}
		who := cmp.Or(caller.User, strings.Join(caller.Tags, ", "))
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, "Hello %s on %s\n", html.EscapeString(who), html.EscapeString(caller.Name))
	})
}
