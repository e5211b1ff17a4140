// Replaces codecs in the bundle that our datasets do not use; they would double its size.

export default class {
  static fromConfig() {
    throw new Error("the dataset uses a codec that this viewer does not carry");
  }
}
