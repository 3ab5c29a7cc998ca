// A reader of a C2SP tiled log whose every check is made by Go's own packages: note opens the
// checkpoints, tlog authenticates tiles and checks records and trees. Here stand only the addresses.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

type reader struct{ base string }

func (r reader) Height() int                               { return height }
func (r reader) SaveTiles(tiles []tlog.Tile, data [][]byte) {}

func (r reader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var found [][]byte
	for _, tile := range tiles {
		data, err := get(r.base + address(tile))
		if err != nil {
			return nil, err
		}
		found = append(found, data)
	}
	return found, nil
}

// Go's path with the height left out and entries for data, as C2SP has it.
func address(tile tlog.Tile) string {
	path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
	return "/" + strings.Replace(path, "tile/data/", "tile/entries/", 1)
}

func get(url string) ([]byte, error) {
	answer, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, answer.Status)
	}
	return io.ReadAll(answer.Body)
}

func open(data []byte, key string) (tlog.Tree, error) {
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return tlog.Tree{}, err
	}
	opened, err := note.Open(data, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if lines[0] != verifier.Name() {
		return tlog.Tree{}, fmt.Errorf("another origin: %s", lines[0])
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, err
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	tree := tlog.Tree{N: size}
	copy(tree.Hash[:], root)
	return tree, err
}

func run(base, key, folder string) error {
	data, err := get(base + "/checkpoint")
	if err != nil {
		return err
	}
	head, err := open(data, key)
	if err != nil {
		return err
	}
	hashes := tlog.TileHashReader(head, reader{base})
	for first := int64(0); first < head.N; first += 1 << height {
		width := int(min(head.N-first, 1<<height))
		bundle, err := get(base + address(tlog.Tile{H: height, L: -1, N: first >> height, W: width}))
		if err != nil {
			return err
		}
		for index := first; index < first+int64(width); index++ {
			size := int(binary.BigEndian.Uint16(bundle))
			entry := bundle[2 : 2+size]
			bundle = bundle[2+size:]
			proof, err := tlog.ProveRecord(head.N, index, hashes)
			if err != nil {
				return err
			}
			if err := tlog.CheckRecord(proof, head.N, head.Hash, index, tlog.RecordHash(entry)); err != nil {
				return fmt.Errorf("entry %d: %w", index, err)
			}
		}
		if !bytes.Equal(bundle, nil) {
			return fmt.Errorf("bytes behind the last entry of bundle %d", first>>height)
		}
	}
	notes, err := filepath.Glob(filepath.Join(folder, "*.note"))
	if err != nil {
		return err
	}
	for _, path := range notes {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		old, err := open(data, key)
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(path), err)
		}
		proof, err := tlog.ProveTree(head.N, old.N, hashes)
		if err != nil {
			return err
		}
		if err := tlog.CheckTree(proof, head.N, head.Hash, old.N, old.Hash); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(path), err)
		}
	}
	fmt.Printf("%d entries, %d older heads\n", head.N, len(notes))
	return nil
}

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
