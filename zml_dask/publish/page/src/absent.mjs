// Stands in the bundle for codecs that no dataset of ours uses; they would double its size.

export default class {
  static fromConfig() {
    throw new Error("the dataset uses a codec that this viewer does not carry");
  }
}
