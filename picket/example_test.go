package picket_test

import (
	"context"
	"fmt"
	"net/http"
	"os"

	"picket.internal/picket"
)

// A web server that greets its callers by name, and a client for peers' web servers.
func Example() {
	ctx := context.Background()
	n, err := picket.Start(ctx, picket.Config{
		Dir:         "/var/lib/greeter",
		Coordinator: "https://picket.example.com:8443#FINGERPRINT",
		AuthKey:     os.Getenv("PICKET_AUTH_KEY"),
		Name:        "greeter",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer n.Close()
	client := &http.Client{Transport: &http.Transport{DialContext: n.Dial}}
	if resp, err := client.Get("http://db-1:8080/health"); err == nil {
		resp.Body.Close()
	}
	l, err := n.Listen("tcp", ":80")
	if err != nil {
		fmt.Println(err)
		return
	}
	err = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, err := n.WhoIs(r.RemoteAddr)
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		fmt.Fprintf(w, "Hello %s on %s\n", caller.User, caller.Name)
	}))
	fmt.Println(err)
}
