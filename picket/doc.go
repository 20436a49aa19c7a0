// Package picket makes a program a node of a Picket network, without an agent on the host, without privilege and without a network interface.
//
// Peers reach what the program listens at and nothing else of its host; the program reaches peers and nothing else. The policy judges every flow
// at both ends, as it does for an agent, and a connection that it no longer allows ends with an error. WhoIs names who is calling.
//
//	n, err := picket.Start(ctx, picket.Config{
//		Dir:         "/var/lib/greeter",
//		Coordinator: "https://picket.example.com:8443#FINGERPRINT",
//		AuthKey:     os.Getenv("PICKET_AUTH_KEY"),
//	})
//	if err != nil {
//		return err
//	}
//	defer n.Close()
//	l, err := n.Listen("tcp", ":80")
//
// A node inside a program serves no networks, uses none behind peers, and asks no gateway for a port.
package picket
