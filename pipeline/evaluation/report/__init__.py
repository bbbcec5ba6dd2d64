"""The page that shows and explains a build."""
