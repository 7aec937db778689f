//go:build !linux

package harness

import "errors"

func (n *Network) open(int) error { return errors.New("this is not Linux") }

func (n *nursery) mount(string, int) error { return errors.New("this is not Linux") }
