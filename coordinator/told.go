package coordinator

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"

	"picket.internal/coordinator/protocol"
)

// network is what maps say of the network by this configuration.
func (config *Config) network() protocol.Network {
	return protocol.Network{Overlay: overlays(*config), Reflectors: config.Reflectors}
}

// noteNetwork raises the generation when the configuration has the maps say something else of the network than they did before: nodes take
// no second content for a generation that they hold.
func (c *Coordinator) noteNetwork(ctx context.Context) error {
	text, err := protocol.Marshal(c.config.network())
	if err != nil {
		return fmt.Errorf("encode the network's entry: %w", err)
	}
	if c.config.Relay { // an entry of its own
		text = append(text, "\n"+protocol.OwnRelay...)
	}
	sum := sha256.Sum256(text)
	var told []byte
	err = c.store.View(ctx, func(tx ReadTx) (err error) {
		told, err = tx.NetworkTold()
		return err
	})
	if err != nil || bytes.Equal(told, sum[:]) {
		return err
	}
	fresh := c.world.Load().nodes.len() == 0 // then nobody holds a map
	_, err = c.update(ctx, system, func(ch *change) error {
		told, err := ch.NetworkTold()
		if err != nil || bytes.Equal(told, sum[:]) {
			return err
		}
		if !fresh {
			ch.raise()
			ch.record("network.change", string(c.config.Network), string(text))
		}
		return ch.SetNetworkTold(sum[:])
	})
	return err
}
