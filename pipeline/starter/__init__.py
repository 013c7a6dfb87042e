"""`sward init`: looks at a folder of images and masks and writes a card and configurations for it."""
